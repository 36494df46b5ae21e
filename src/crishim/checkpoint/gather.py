"""Read from a container what CRIU would drop and a restore puts back (`carried`).

Sockets are looked into before the pause; in it, beside CRIU, only those that are new, and the
threads, which takes microseconds each. An option that is set between the two looks is missed: the
time of a drain. What cannot be looked into is told as a loss.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from crishim.checkpoint import unkept
from crishim.checkpoint.carried import Carried, Socket, Thread
from crishim.checkpoint.flow import in_thread
from crishim.checkpoint.lanes import Lane
from crishim.checkpoint.losses import Kind, Loss
from crishim.errors import CrishimError, Unsupported
from crishim.kernel import borrow, multicast, procs, scheduling
from crishim.kernel.netns import NetnsThread
from crishim.kernel.sockopts import Defaults

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Collection, Iterator, Sequence

_UDP_CORK = 1
_TIMER_SLACK_NS = 50_000
_SOCKETS_MAX = 50_000
_GONE = (errno.ESRCH, errno.EBADF)


class Gatherer:
    """Looks into one container that is being dumped.

    Args:
        netns: of the pod; "" for the node's.
        pid: the container's first process.
    Attributes:
        carried, losses: what is to be put back, and what is lost all the same; after `in_pause`.
    """

    def __init__(self, netns: str, pid: int) -> None:
        self._netns = netns
        self._pid = pid
        self._thread: NetnsThread | None = None
        self._defaults: Defaults | None = None
        self._sockets: dict[int, Socket | None] = {}
        self.carried = Carried()
        self.losses: list[Loss] = []

    async def before_pause(self, undo: contextlib.AsyncExitStack, pids: Sequence[int]) -> None:
        """Look into the sockets that there are; `undo` ends the thread that does it.

        Raises: Unsupported: one that CRIU cannot dump.
        """
        self._thread = await undo.enter_async_context(NetnsThread(self._netns or None))
        await self._thread.run(self._look, pids)
        self.losses += await in_thread(unkept.memory_policies, pids, lane=Lane.BULK)

    async def in_pause(self, pids: Sequence[int]) -> None:
        """Look at what is new; the processes are frozen. A failure is a loss, and fails nothing."""
        assert self._thread is not None
        try:
            await self._thread.run(self._last_look, pids)
        except (CrishimError, OSError) as error:
            what = f"what CRIU drops could not be looked for ({error})"
            self.losses.append(Loss(kind=Kind.OTHER, what=what))

    def _last_look(self, pids: Sequence[int]) -> None:
        inodes = self._look(pids)
        found = (self._sockets[inode] for inode in inodes if inode in self._sockets)
        self.carried = Carried(
            sockets=tuple(item for item in found if item is not None),
            threads=tuple(_threads(self._pid, pids)),
        )
        self.losses += [*unkept.queues(inodes), *unkept.locks(pids)]

    def _look(self, pids: Sequence[int]) -> dict[int, tuple[int, int]]:
        """Look into sockets that were not seen before; return all of them by inode."""
        if self._defaults is None:
            self._defaults = Defaults()
        found, groups = borrow.sockets(pids), multicast.groups()
        for inode, (pid, fd) in found.items():
            if inode not in self._sockets and len(self._sockets) < _SOCKETS_MAX:
                try:
                    with borrow.borrowed(pid, fd) as sock:
                        self._sockets[inode] = _state(sock, (pid, fd), self._defaults, groups)
                except OSError as error:
                    if error.errno not in _GONE:
                        self.losses.append(_blind(pid, error))
        return found


def _state(
    sock: socket.socket, place: tuple[int, int], defaults: Defaults, groups: list[multicast.Group]
) -> Socket | None:
    """Return what is to be put back on a socket; None for nothing.

    Raises: Unsupported: CRIU cannot dump it.
    """
    datagrams = sock.proto == socket.IPPROTO_UDP and sock.type & 0xF == socket.SOCK_DGRAM
    if datagrams and sock.getsockopt(socket.IPPROTO_UDP, _UDP_CORK):
        raise Unsupported(
            f"{procs.title(place[0])} holds a datagram back (UDP_CORK), which CRIU cannot dump",
            hint="let it send the datagram first",
        )
    options = tuple(defaults.changed(sock))
    memberships = tuple(multicast.memberships(sock, groups))
    if not options and not memberships:
        return None
    return Socket(
        pid=procs.id_inside(place[0]),
        fd=place[1],
        family=sock.family,
        kind=sock.type & 0xF,
        protocol=sock.proto,
        options=options,
        memberships=memberships,
    )


def _threads(first: int, pids: Collection[int]) -> Iterator[Thread]:
    """Yield the threads that run otherwise than what starts in the container anew.

    That is: on its whole cpuset, or on what the runtime's own processors leave of it.
    """
    usual = scheduling.cpuset(first)
    runtime = scheduling.affinity(procs.parent(first))
    for pid in pids:
        for tid in scheduling.threads(pid):
            processors = scheduling.affinity(tid)
            bound = bool(processors) and processors not in (usual, usual & runtime or runtime)
            priority = scheduling.io_priority(tid)
            slack_ns = scheduling.timer_slack_ns(tid)
            if bound or priority or slack_ns not in (0, _TIMER_SLACK_NS):
                yield Thread(
                    pid=procs.id_inside(pid),
                    tid=procs.id_inside(tid),
                    processors=processors if bound else frozenset(),
                    io_priority=priority,
                    timer_slack_ns=0 if slack_ns == _TIMER_SLACK_NS else slack_ns,
                )


def _blind(pid: int, error: OSError) -> Loss:
    return Loss(
        kind=Kind.SOCKET_OPTION,
        pid=procs.id_inside(pid),
        what=f"the sockets of {unkept.named(pid)} cannot be looked into ({error.strerror}): "
        "multicast memberships and options that CRIU does not save are lost",
        cure="run crishim with CAP_SYS_PTRACE",
    )
