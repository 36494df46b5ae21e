"""Put back into restored processes what CRIU drops (`carried`), before they run again.

CRIU calls a script of ours right before it lets the processes go (`pre-resume.sh`): the script asks
through one FIFO, and waits at another until this daemon has done its work. So no process ever runs
without what it had. What cannot be put back is a loss, and no reason to fail: the processes are
restored. If the daemon dies meanwhile, or takes too long, the script lets the restore go on.

    carried         what is to be put back, as the archive has it
    pre-resume      the script
    ask, told       the FIFOs, made anew for every start
    late            the script has gone on without an answer
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.resources
import logging
import os
from typing import TYPE_CHECKING, Self

from crishim.aio.lanes import Lane
from crishim.aio.shield import in_thread
from crishim.archive import carried as carrieds
from crishim.archive.carried import MEMBER, Carried
from crishim.kernel import atomic, files, procs, scheduling
from crishim.kernel.net import borrow, datagrams, multicast, sockopts
from crishim.kernel.net.netns import NetnsThread
from crishim.losses import Kind, Loss

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from crishim.archive.carried import Socket, Thread
    from crishim.archive.reader import ArchiveReader


_log = logging.getLogger(__name__)


def arrange(directory: Path, archive: ArchiveReader) -> str:
    """Write into a restore's directory what its start has to put back. Blocks.

    Returns: the options of CRIU that it needs; "" for none.
    Raises: Corrupt: the archive's entry is damaged.
    """
    if MEMBER not in archive.members:
        return ""
    data = archive.read(MEMBER)
    carrieds.decode(data)
    script = importlib.resources.files("crishim.restore").joinpath("pre-resume.sh")
    atomic.write_file(directory / "pre-resume", script.read_bytes(), mode=0o700)
    atomic.write_file(directory / "carried", data, mode=0o600)
    return f"action-script {directory}/pre-resume\n"


class PutBack:
    """Waits, for the time of one restore, for CRIU to ask; use it as an `async with` block.

    Attributes:
        losses: what could not be put back, once the block is over.
    """

    def __init__(self, directory: Path) -> None:
        self.losses: list[Loss] = []
        self._directory = directory
        self._carried = Carried()
        self._fds: list[int] = []
        self._work: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Make the FIFOs, if there is anything to put back."""
        with contextlib.suppress(FileNotFoundError):
            data = await in_thread((self._directory / "carried").read_bytes)
            self._carried = carrieds.decode(data)
        if self._carried:
            (self._directory / "late").unlink(missing_ok=True)
            for name in ("ask", "told"):
                path = self._directory / name
                path.unlink(missing_ok=True)
                os.mkfifo(path, 0o600)
                # Open for both, so that neither side waits for the other to open.
                self._fds.append(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
            asyncio.get_running_loop().add_reader(self._fds[0], self._asked)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Take the FIFOs away; work that has begun is waited for."""
        if self._fds:
            asyncio.get_running_loop().remove_reader(self._fds[0])
        if self._work is not None:
            await asyncio.gather(self._work, return_exceptions=True)
        elif self._carried and kind is None:
            self.losses.append(_failed("CRIU has not asked for it"))
        self.losses += late(self._directory)
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()

    def _asked(self) -> None:
        """Take CRIU's question, the id of its first process, and begin."""
        with contextlib.suppress(BlockingIOError):
            words = os.read(self._fds[0], 64).split()
            if words and self._work is None:
                self._work = asyncio.ensure_future(self._answer(int(words[0])))

    async def _answer(self, pid: int) -> None:
        try:
            self.losses += await in_thread(put_back, self._carried, pid, lane=Lane.PAUSE)
        except Exception as error:  # noqa: BLE001 - a number that nobody expected is a loss too
            _log.exception("what CRIU drops cannot be put back")
            self.losses.append(_failed(str(error) or type(error).__name__))
        finally:
            os.write(self._fds[1], b"done\n")


def late(directory: Path) -> list[Loss]:
    """Return what a restore has lost that could not wait for a daemon; it is told once.

    A disk that refuses is no reason to fail: the processes run.
    """
    path = directory / "late"
    try:
        if not files.is_there(path):
            return []
    except OSError as error:
        return [_failed(f"nobody knows whether CRIU was answered in time ({error.strerror})")]
    with contextlib.suppress(OSError):  # it is told twice then
        path.unlink()
    return [_failed("nobody answered CRIU in time")]


def put_back(carried: Carried, first: int) -> list[Loss]:
    """Put everything back into a container whose processes stand still. Blocks.

    Args: first: its first process.
    Returns: what could not be put back.
    """
    pids = {procs.id_inside(pid): pid for pid in procs.descendants(first)}
    tids: dict[int, dict[int, int]] = {}
    for number in {thread.pid for thread in carried.threads}:
        found = scheduling.threads(pids.get(number, 0))
        tids[number] = {procs.id_inside(tid): tid for tid in found}
    losses = [loss for item in carried.threads for loss in _thread(item, tids[item.pid])]
    if carried.sockets:
        inside = NetnsThread(f"/proc/{first}/ns/net")
        try:
            losses += inside.call(_sockets, carried, pids)
        finally:
            inside.close()
    return losses


def _thread(thread: Thread, tids: dict[int, int]) -> list[Loss]:
    tid = tids.get(thread.tid, 0)
    who = f"thread {thread.tid} of process {thread.pid} of the container"
    if not tid:
        return [Loss(kind=Kind.SCHEDULING, pid=thread.pid, what=f"{who} is not to be found")]
    losses = []
    try:
        if thread.io_priority:
            scheduling.set_io_priority(tid, thread.io_priority)
        if thread.timer_slack_ns:
            scheduling.set_timer_slack(tid, thread.timer_slack_ns)
    except OSError as error:
        what = f"{who} has not got its I/O priority or timer slack again ({error.strerror})"
        losses.append(Loss(kind=Kind.SCHEDULING, pid=thread.pid, what=what))
    if thread.processors and (missing := thread.processors - _bind(tid, thread.processors)):
        text = ",".join(map(str, sorted(missing)))
        what = f"{who} was bound to processors that it may not use here: {text}"
        losses.append(Loss(kind=Kind.AFFINITY, pid=thread.pid, what=what))
    return losses


def _bind(tid: int, processors: frozenset[int]) -> frozenset[int]:
    try:
        return scheduling.bind(tid, processors)
    except OSError:
        return frozenset()


def _sockets(carried: Carried, pids: dict[int, int]) -> list[Loss]:
    losses: list[Loss] = []
    for item in carried.sockets:
        try:
            with borrow.borrowed(pids[item.pid], item.fd) as sock:
                if (sock.family, sock.type & 0xF, sock.proto) != (
                    item.family,
                    item.kind,
                    item.protocol,
                ):
                    raise OSError(0, "it is another one now")
                losses += _socket(item, sock)
        except (KeyError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else "the process is not there"
            what = f"socket {item.fd} of process {item.pid} of the container is not to be found"
            what += f" ({reason})"
            losses.append(Loss(kind=Kind.SOCKET_OPTION, pid=item.pid, what=what))
    return losses


def _socket(item: Socket, sock: socket.socket) -> list[Loss]:
    losses = []
    who = f"socket {item.fd} of process {item.pid} of the container"
    for option in item.options:
        try:
            sockopts.put(sock, option)
        except OSError as error:
            what = f"{who} has lost {option} ({error.strerror})"
            losses.append(Loss(kind=Kind.SOCKET_OPTION, pid=item.pid, what=what))
    for membership in item.memberships:
        try:
            multicast.join(sock, membership)
        except OSError as error:
            what = f"{who} is no longer in the multicast group {membership.group}"
            losses.append(
                Loss(kind=Kind.MEMBERSHIP, pid=item.pid, what=f"{what} ({error.strerror})")
            )
    return [*losses, *_datagrams(item, sock)] if item.datagrams else losses


def _datagrams(item: Socket, sock: socket.socket) -> list[Loss]:
    """Deliver what the socket had not read, and look whether it is there."""
    reason = "they did not arrive"
    try:
        for datagram in item.datagrams:
            datagrams.deliver(datagram)
        if len(datagrams.waiting(sock)) == len(item.datagrams):
            return []
    except (OSError, ValueError, datagrams.CannotLook) as error:
        reason = str(error)
    what = f"{len(item.datagrams)} datagrams that socket {item.fd} of process {item.pid} of the "
    what += f"container had not read are lost: {reason}"
    return [Loss(kind=Kind.SOCKET_QUEUE, pid=item.pid, what=what)]


def _failed(reason: str) -> Loss:
    return Loss(
        kind=Kind.OTHER,
        what="multicast memberships, socket options and processors of the checkpoint were not put "
        f"back before the processes went on: {reason}",
    )
