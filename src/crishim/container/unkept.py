"""Find what CRIU drops and nobody can put back, to say so: queues, locks, what CRIU warns of.

Everything here reads what the kernel lists; the processes may be frozen. The calling thread is in
the network namespace whose sockets are asked for.

Source: criu/sk-inet.c, criu/sk-packet.c, criu/file-lock.c of CRIU 4.2; proc_locks(5).
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crishim.kernel import procs
from crishim.kernel.net.sockdiag import SockDiag
from crishim.losses import Kind, Loss
from crishim.tools import criuwarnings

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_LOCK = re.compile(r"^\d+: POSIX +\S+ +\S+ +(\d+) ", re.MULTILINE)
_OWN_LOCK = re.compile(r"^lock:\t\d+: POSIX ", re.MULTILINE)


def named(pid: int) -> str:
    """Name a process for people who do not see this node: by its id in the container."""
    words = " ".join(procs.command(pid).split())[:60]
    return f"process {procs.id_inside(pid)} of the container ({words or 'gone'})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """What waits unread in a socket.

    Attributes:
        name: of the socket, for people.
        count: about how many bytes, as the kernel counts them.
        udp: it is a UDP socket, of either family.
    """

    inode: int
    name: str
    count: int
    udp: bool = False


def queue_loss(queue: Queue, pid: int, reason: str = "") -> Loss:
    """Return that a queue is lost. Args: pid: its process. reason: why it is not carried."""
    return Loss(
        kind=Kind.SOCKET_QUEUE,
        pid=procs.id_inside(pid),
        what=f"{named(pid)} has not read what waits in its {queue.name} (about {queue.count} "
        "bytes), which is lost at a restore" + (f": {reason}" if reason else ""),
    )


def queues() -> Iterator[Queue]:
    """Yield what lies unread in sockets of this namespace whose queues CRIU drops."""
    return (queue for queue in _queues() if queue.count)


def _queues() -> Iterator[Queue]:
    with contextlib.closing(SockDiag()) as diag:
        for item in diag.udp():
            name = f"UDP socket at {item.local_end}"
            yield Queue(inode=item.inode, name=name, count=item.receive_queue, udp=True)
    for name, title in (
        ("udplite", "UDP-Lite"),
        ("udplite6", "UDP-Lite"),
        ("raw", "raw"),
        ("raw6", "raw"),
        ("icmp", "ping"),
        ("icmp6", "ping"),
    ):
        for words in _table(name):
            count = int(words[4].partition(":")[2], 16)
            yield Queue(inode=int(words[9]), name=f"{title} socket", count=count)
    for words in _table("packet"):
        yield Queue(inode=int(words[8]), name="packet socket", count=int(words[6]))


def _table(name: str) -> Iterator[list[str]]:
    """Yield the words of each line below the heading of a table of sockets."""
    with contextlib.suppress(FileNotFoundError):
        text = Path("/proc/thread-self/net", name).read_text(encoding="ascii")
        yield from (line.split() for line in text.split("\n")[1:] if line)


def locks(pids: Collection[int]) -> list[Loss]:
    """Return the locks of processes (fcntl) on files that they have mapped too.

    CRIU sets the lock before it maps the file, and to end its own descriptor of that file ends the
    lock. A lock that belongs to an open file is kept.
    """
    holders = {int(pid) for pid in _LOCK.findall(_text("/proc/locks"))}
    return [
        Loss(
            kind=Kind.FILE_LOCK,
            pid=procs.id_inside(pid),
            what=f"{named(pid)} holds a lock (fcntl) on {path}, which it has mapped too: the lock "
            "is lost at a restore",
            cure="harmless unless several processes rely on it",
        )
        for pid in pids
        if pid in holders
        for path in _locked(pid) & procs.mapped_files(pid)
    ]


def memory_policies(pids: Collection[int]) -> list[Loss]:
    """Return the NUMA policies of memory, on a node with several NUMA nodes. Blocks for long."""
    if _text("/sys/devices/system/node/online").strip() in ("", "0"):
        return []
    return [
        Loss(
            kind=Kind.MEMORY_POLICY,
            pid=procs.id_inside(pid),
            what=f"{named(pid)} has memory of NUMA policy {', '.join(sorted(policies))}, which is "
            "the default after a restore",
            cure="give the new container its memory nodes by cpuset (cpuset_mems)",
        )
        for pid in pids
        if (policies := procs.memory_policies(pid))
    ]


def by_criu(log: Path) -> list[Loss]:
    """Return what CRIU itself has warned of in a dump.log or restore.log. Blocks."""
    return [
        Loss(
            kind=Kind.CRIU,
            what=f"{warned.meaning} (CRIU: {warned.words})"
            if warned.meaning
            else f"CRIU warns: {warned.words}",
        )
        for warned in criuwarnings.read(log)
    ]


def _locked(pid: int) -> set[str]:
    """Return the files on which a process has a lock of its own."""
    found: set[str] = set()
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fdinfo"):
            if _OWN_LOCK.search(_text(f"/proc/{pid}/fdinfo/{name}")):
                with contextlib.suppress(OSError):
                    found.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
