"""Read from a container what CRIU would drop and a restore puts back (`carried`).

Sockets are looked into before the pause; in it, beside CRIU, only those that are new, and the
threads, which takes microseconds each. An option that is set between the two looks is missed: the
time of a drain. What cannot be looked into is told as a loss.
"""

from __future__ import annotations

import dataclasses
import errno
import select
import socket
import time
from typing import TYPE_CHECKING

from crishim.aio.lanes import Lane
from crishim.aio.shield import in_thread
from crishim.archive import carried as carrieds
from crishim.archive.carried import Carried, Socket, Thread
from crishim.container import unkept
from crishim.dump import scopes
from crishim.errors import CrishimError, Precondition, Unsupported
from crishim.kernel import procs, scheduling
from crishim.kernel.net import borrow, datagrams, multicast
from crishim.kernel.net.netns import NetnsThread
from crishim.kernel.net.sockopts import Defaults
from crishim.losses import Kind, Loss

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Collection, Iterator, Mapping, Sequence

_UDP_CORK = 1
_LOOKS, _BETWEEN_LOOKS_S = 5, 0.02
_ON_THE_WAY_S = 0.03  # less than CRIU takes meanwhile
_TIMER_SLACK_NS = 50_000
_SOCKETS_MAX = 50_000
_GONE = (errno.ESRCH, errno.EBADF)


class Gatherer:
    """Looks into one container that is being dumped.

    Args:
        netns: of the pod; "" for the node's.
        pid: the container's first process.
        ends: the dump ends the container, so that what waits in its sockets may be touched.
    Attributes:
        carried, losses: what is to be put back, and what is lost all the same; after `in_pause`.
    """

    def __init__(self, netns: str, pid: int, *, ends: bool) -> None:
        self._netns = netns
        self._pid = pid
        self._ends = ends
        self._thread: NetnsThread | None = None
        self._defaults: Defaults | None = None
        self._sockets: dict[int, Socket | None] = {}
        self.carried = Carried()
        self.losses: list[Loss] = []

    async def before_pause(self, undo: contextlib.AsyncExitStack, pids: Sequence[int]) -> None:
        """Look into the sockets that there are; `undo` ends the thread that does it.

        Raises: Unsupported, Precondition: CRIU cannot dump one of them.
        """
        self._thread = await undo.enter_async_context(NetnsThread(self._netns or None))
        await self._thread.run(self._look, pids, refuse=True)
        self.losses += await in_thread(unkept.memory_policies, pids, lane=Lane.BULK)

    async def in_pause(self, pids: Sequence[int]) -> None:
        """Look at what is new; the processes are frozen.

        What cannot be looked for is a loss. So is a socket that would have been refused before the
        pause, if the container goes on.
        Raises: Unsupported, Precondition: it does not, and its archive could not be restored.
        """
        assert self._thread is not None
        try:
            await self._thread.run(self._last_look, pids)
        except (CrishimError, OSError) as error:
            if self._ends and isinstance(error, CrishimError):
                raise
            what = f"what CRIU drops could not be looked for ({error})"
            self.losses.append(Loss(kind=Kind.OTHER, what=what))

    def entry(self) -> bytes:
        """Return the archive's entry; empty if nothing is to be carried."""
        if not self.carried:
            return b""
        data = carrieds.encode(self.carried)
        if len(data) <= carrieds.BYTES_MAX:
            return data
        what = "there is too much that CRIU drops to take it along: options and groups of sockets"
        self.losses.append(Loss(kind=Kind.SOCKET_OPTION, what=f"{what}, processors of threads"))
        return b""

    def _last_look(self, pids: Sequence[int]) -> None:
        begun_s = time.monotonic()
        inodes = self._look(pids, refuse=self._ends)
        self.losses += unkept.locks(pids)
        if len(self._sockets) >= _SOCKETS_MAX:
            what = f"options and groups of more than {_SOCKETS_MAX} sockets are lost"
            self.losses.append(Loss(kind=Kind.SOCKET_OPTION, what=what))
        threads = tuple(_threads(self._pid, pids))
        # What a process has sent to itself right before the pause comes a moment after it.
        time.sleep(max(0.0, begun_s + _ON_THE_WAY_S - time.monotonic()))
        self._queues(inodes)
        found = (self._sockets.get(inode) for inode in inodes)
        self.carried = Carried(
            sockets=tuple(item for item in found if item is not None), threads=threads
        )

    def _queues(self, inodes: Mapping[int, tuple[int, int]]) -> None:
        """Take along what waits in UDP sockets where their owners end; tell it elsewhere."""
        for queue in unkept.queues():
            if queue.inode not in inodes:
                continue
            pid, fd = inodes[queue.inode]
            reason = ""
            if queue.udp and self._ends:
                try:
                    with borrow.borrowed(pid, fd) as sock:
                        waiting = tuple(datagrams.waiting(sock))
                        known = self._sockets.get(queue.inode) or _plain(sock, pid, fd)
                    self._sockets[queue.inode] = dataclasses.replace(known, datagrams=waiting)
                    continue
                except (OSError, datagrams.CannotLook) as error:
                    reason = str(error)
            self.losses.append(unkept.queue_loss(queue, pid, reason))

    def _look(self, pids: Sequence[int], *, refuse: bool) -> dict[int, tuple[int, int]]:
        """Look into sockets that were not seen before; return all of them by inode.

        Args: refuse: raise for a socket that CRIU cannot dump or restore; it is told otherwise.
        """
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
                except (Unsupported, Precondition) as error:
                    if refuse:
                        raise
                    self._sockets[inode] = None
                    self.losses.append(Loss(kind=Kind.OTHER, what=str(error)))
        return found


def _state(
    sock: socket.socket, place: tuple[int, int], defaults: Defaults, groups: list[multicast.Group]
) -> Socket | None:
    """Return what is to be put back on a socket; None for nothing.

    Raises: Unsupported, Precondition: CRIU cannot dump it.
    """
    udp = sock.proto == socket.IPPROTO_UDP and sock.type & 0xF == socket.SOCK_DGRAM
    if udp and sock.getsockopt(socket.IPPROTO_UDP, _UDP_CORK):
        raise Unsupported(
            f"{procs.title(place[0])} holds a datagram back (UDP_CORK), which CRIU cannot dump",
            hint="let it send the datagram first",
        )
    if sock.family == socket.AF_INET6 and _lacks_interface(sock):
        raise Unsupported(
            f"{procs.title(place[0])} has a socket at the multicast group {sock.getsockname()[0]} "
            "of a link, and is bound to no interface any more: CRIU dumps it and cannot restore it",
            hint="let it keep SO_BINDTODEVICE as the kernel has set it",
        )
    if sock.family == socket.AF_NETLINK and _stays_unread(sock):
        raise Precondition(
            f"{procs.title(place[0])} has not read what the kernel has told it (netlink), which "
            "CRIU cannot dump",
            hint="try again",
        )
    options = tuple(defaults.changed(sock))
    memberships = tuple(multicast.memberships(sock, groups))
    if not options and not memberships:
        return None
    return dataclasses.replace(_plain(sock, *place), options=options, memberships=memberships)


def _lacks_interface(sock: socket.socket) -> bool:
    address, port = sock.getsockname()[:2]
    packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
    if not port or not scopes.of_a_link(packed):
        return False
    return not sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).strip(b"\0")


def _stays_unread(sock: socket.socket) -> bool:
    """Return whether what a socket has received is not read in the time of a few answers."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    for _ in range(_LOOKS):
        if not poll.poll(0):
            return False
        time.sleep(_BETWEEN_LOOKS_S)
    return True


def _plain(sock: socket.socket, pid: int, fd: int) -> Socket:
    return Socket(
        pid=procs.id_inside(pid),
        fd=fd,
        family=sock.family,
        kind=sock.type & 0xF,
        protocol=sock.proto,
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
    refused = error.errno in (errno.EPERM, errno.EACCES)
    return Loss(
        kind=Kind.SOCKET_OPTION,
        pid=procs.id_inside(pid),
        what=f"sockets of {unkept.named(pid)} cannot be looked into ({error.strerror or error}): "
        "multicast memberships and options that CRIU does not save are lost",
        cure="run crishim with CAP_SYS_PTRACE" if refused else "",
    )
