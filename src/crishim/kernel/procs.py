"""Facts about processes from /proc: parents, open files, memory.

A process may end at any moment; what was read of it then counts as nothing. A process that is there
and cannot be looked into is an error: refusals rest on what is seen here.
Source: proc(5), proc_pid_smaps(5).
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crishim.errors import Precondition
from crishim.kernel import files

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_DUMPED = ("Anonymous", "Pss_Shmem", "SwapPss", "Private_Hugetlb")
_TITLE_CHARS = 60
_SOCKET = re.compile(r"socket:\[(\d+)\]")
_DELETED = " (deleted)"
_DELETED_MAPPING = re.compile(rb"^(\S+) \S+ \S+ \S+ [1-9]\d* +(/.*) \(deleted\)$", re.MULTILINE)
_WATCH = re.compile(r"^inotify wd:\S+ ino:(\S+) sdev:(\S+) ", re.MULTILINE)
_SHARED_MAPPING = re.compile(rb"^\S+ ...s \S+ \S+ ([1-9]\d*) +(/.*)$", re.MULTILINE)
_MAPPING = re.compile(rb"^\S+ \S+ \S+ \S+ [1-9]\d* +(/.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFiles:
    """What the processes of a container have open, gathered over all of them.

    Attributes:
        sockets: inode numbers.
        terminals: process ids by the terminal they have open.
        io_uring: ids of processes with an io_uring.
    """

    sockets: frozenset[int]
    terminals: dict[str, int]
    io_uring: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NamelessFile:
    """A regular file that a process has open or mapped under a name that is gone.

    Attributes:
        path: the name that it had.
        device: of the file system that it is in.
        on_root: that is the one of the process's root directory.
    """

    pid: int
    path: str
    device: int
    on_root: bool


@dataclass(frozen=True, slots=True)
class SharedMapping:
    """A file that a process has mapped shared.

    Attributes:
        inode: as the process's file system numbers it.
        path: as the process sees it; it may have been removed since.
    """

    inode: int
    path: str


@contextlib.contextmanager
def looking_into(pid: int) -> Iterator[None]:
    """Leave the block when the process, or the file of it that is read, is gone.

    Raises: Precondition: it is there, and for another reason it cannot be looked into.
    """
    try:
        yield
    except (FileNotFoundError, ProcessLookupError):
        return
    except OSError as error:
        raise Precondition(f"cannot look into process {pid}", details=str(error)) from error


def parent(pid: int) -> int:
    """Return the id of a process's parent; 0 when either is gone."""
    found = 0
    with looking_into(pid):
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        found = int(text.rpartition(")")[2].split()[1])
    return found


def descendants(pid: int) -> list[int]:
    """Return a process and all that it and its children have started, parents first."""
    found = [pid]
    for parent_id in found:
        for task in thread_directories(parent_id):
            with looking_into(parent_id):
                text = (task / "children").read_text(encoding="ascii")
                found += [int(word) for word in text.split()]
    return found


def thread_directories(pid: int) -> list[Path]:
    """Return the directories in /proc of a process's threads; none when it is gone.

    Raises: Precondition: they cannot be listed.
    """
    found: list[Path] = []
    with looking_into(pid):
        found = files.entries(Path(f"/proc/{pid}/task"))
    return found


def is_init_of(parent: int, pid: int) -> bool:
    """Return whether a process is the first one of the pid namespace that another one lives in."""
    with contextlib.suppress(OSError, ValueError):
        ours, theirs = (os.stat(f"/proc/{each}/ns/pid") for each in (parent, pid))
        inner = nested_ids(Path(f"/proc/{parent}"))
        return os.path.samestat(ours, theirs) and inner[-1:] == [1] and len(inner) > 1
    return False


def command(pid: int) -> str:
    """Return the command line of a process, for people; "" when it is gone."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return b" ".join(words).decode(errors="replace").strip()[:200]
    return ""


def runs(name: str) -> bool:
    """Return whether any process of the node is of that name, by its `comm`.

    Raises: OSError, Precondition: nobody can tell.
    """
    for process in files.entries(Path("/proc")):
        if process.name.isdigit():
            with looking_into(int(process.name)):
                if (process / "comm").read_bytes().strip() == os.fsencode(name):
                    return True
    return False


def title(pid: int) -> str:
    """Name a process for people: its id and the begin of its command line."""
    words = " ".join(command(pid).split())[:_TITLE_CHARS]
    return f"process {pid} ({words or 'gone'})"


def socket_owner(inode: int, pids: Iterable[int] | None = None) -> int:
    """Return the id of a process that has a socket open; 0 if none is found.

    Args: pids: where to look; None for all processes that we can see, which takes its time.
    """
    wanted = f"socket:[{inode}]"
    if pids is None:
        pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    return next((pid for pid in pids if wanted in _targets(pid)), 0)


def system_v_memory(pids: Iterable[int]) -> int:
    """Return the id of the first process that has System V shared memory mapped; 0 if none has."""
    for pid in pids:
        with looking_into(pid):
            if b" /SYSV" in Path(f"/proc/{pid}/maps").read_bytes():
                return pid
    return 0


def socket_descriptors(pid: int) -> Iterator[tuple[int, int]]:
    """Yield descriptor and inode of each socket that a process has open."""
    for name, target in open_links(pid):
        if match := _SOCKET.fullmatch(target):
            yield int(name), int(match.group(1))


def id_inside(pid: int) -> int:
    """Return the id of a process as its own pid namespace counts; 0 when it is gone."""
    found = [0]
    with looking_into(pid):
        found = nested_ids(Path(f"/proc/{pid}"))
    return found[-1]


def open_files(pids: Iterable[int]) -> OpenFiles:
    """Look through the open files of processes."""
    sockets: set[int] = set()
    terminals: dict[str, int] = {}
    rings: list[int] = []
    for pid in pids:
        for target in _targets(pid):
            if match := _SOCKET.fullmatch(target):
                sockets.add(int(match.group(1)))
            elif target.startswith(("/dev/pts/", "/dev/console", "/dev/tty")):
                terminals.setdefault(target, pid)
            elif target == "anon_inode:[io_uring]":
                rings.append(pid)
    return OpenFiles(sockets=frozenset(sockets), terminals=terminals, io_uring=tuple(rings))


def memory_bytes(pids: Iterable[int]) -> int:
    """Return about how many bytes of memory a dump of these processes would write.

    Anonymous and shared memory count, swapped out or not, and huge pages; pages of files do not,
    unless they were changed.
    """
    total = shared_huge = 0
    for pid in pids:
        with looking_into(pid):
            parts = rollup_bytes(Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii"))
            total += sum(parts.get(name, 0) for name in _DUMPED)
            # Nothing tells how many processes share them; that all of them do is the likely case.
            shared_huge = max(shared_huge, parts.get("Shared_Hugetlb", 0))
    return total + shared_huge


def rollup_bytes(text: str) -> dict[str, int]:
    """Read the figures of a smaps_rollup."""
    lines = (line.split(":", 1) for line in text.split("\n")[1:] if line.endswith("kB"))
    return {name: int(value.split()[0]) << 10 for name, value in lines}


def shared_mappings(pids: Iterable[int]) -> frozenset[SharedMapping]:
    """Return the files that processes have mapped shared, writable now or not.

    A write through such a mapping need not touch the file's times.
    """
    found: set[SharedMapping] = set()
    for pid in pids:
        with looking_into(pid):
            maps = Path(f"/proc/{pid}/maps").read_bytes()
            found.update(
                SharedMapping(int(inode), os.fsdecode(path))
                for inode, path in _SHARED_MAPPING.findall(maps)
            )
    return frozenset(found)


def mapped_files(pid: int) -> set[str]:
    """Return the files that a process has mapped, as it sees their paths."""
    found: set[str] = set()
    with looking_into(pid):
        maps = Path(f"/proc/{pid}/maps").read_bytes()
        found.update(os.fsdecode(path) for path in _MAPPING.findall(maps))
    return found


def memory_policies(pid: int) -> set[str]:
    """Return the NUMA policies other than the default that memory of a process has.

    Source: numa(7), /proc/PID/numa_maps; it takes as long as smaps does.
    """
    found: set[str] = set()
    with looking_into(pid):
        found = policies(Path(f"/proc/{pid}/numa_maps").read_bytes())
    return found - {"default"}


def policies(table: bytes) -> set[str]:
    """Read the policies of a numa_maps; names of files, which it has too, end no line."""
    lines = [line.split(b" ", 2) for line in table.split(b"\n")]
    return {words[1].decode(errors="replace") for words in lines if len(words) > 1}


def nameless_files(pids: Iterable[int]) -> list[NamelessFile]:
    """Return files that have other names than the one by which they were opened, which is gone."""
    found: list[NamelessFile] = []
    for pid in pids:
        for link, path in _deleted(pid):
            with looking_into(pid):
                status, root = os.stat(link), os.stat(f"/proc/{pid}/root")
                if stat.S_ISREG(status.st_mode) and status.st_nlink:
                    device = status.st_dev
                    file = NamelessFile(
                        pid=pid, path=path, device=device, on_root=device == root.st_dev
                    )
                    found.append(file)
    return found


def watched_inodes(pids: Iterable[int], *, device: int) -> set[int]:
    """Return the inodes on a device that processes watch by inotify."""
    found: set[int] = set()
    for pid in pids:
        for name, target in open_links(pid):
            if target != "anon_inode:inotify":
                continue
            with looking_into(pid):
                marks = Path(f"/proc/{pid}/fdinfo/{name}").read_text(encoding="ascii")
                for inode, number in _WATCH.findall(marks):
                    if _device(int(number, 16)) == device:
                        found.add(int(inode, 16))
    return found


def _device(number: int) -> int:
    """Return a device as stat(2) has it, from the number that the kernel uses inside."""
    return os.makedev(number >> 20, number & 0xFFFFF)


def _deleted(pid: int) -> Iterator[tuple[str, str]]:
    """Yield links in /proc to what a process has open or mapped without a name; the old name."""
    for name, target in open_links(pid):
        if target.startswith("/") and target.endswith(_DELETED):
            yield f"/proc/{pid}/fd/{name}", target.removesuffix(_DELETED)
    with looking_into(pid):
        maps = Path(f"/proc/{pid}/maps").read_bytes()
        for addresses, path in _DELETED_MAPPING.findall(maps):
            yield f"/proc/{pid}/map_files/{addresses.decode()}", os.fsdecode(path)


def _targets(pid: int) -> list[str]:
    return [target for _, target in open_links(pid)]


def open_links(pid: int) -> Iterator[tuple[str, str]]:
    """Yield the number of each open file, as text, and what its link in /proc says."""
    directory = f"/proc/{pid}/fd"
    with looking_into(pid):
        for name in os.listdir(directory):
            with looking_into(pid):
                yield name, os.readlink(f"{directory}/{name}")


def thread_ids_inside(pid: int) -> set[int]:
    """Return the ids of a process's threads as its own pid namespace counts them."""
    found: set[int] = set()
    for task in thread_directories(pid):
        with looking_into(pid):
            found.update(nested_ids(task)[-1:])
    return found


def nested_ids(directory: Path) -> list[int]:
    """Return the ids of a process or thread in each pid namespace it is in, ours first.

    Args: directory: its own in /proc. Raises: OSError: as that says, when it is gone too.
    """
    text = (directory / "status").read_bytes()
    return [int(word) for word in text.partition(b"\nNSpid:")[2].partition(b"\n")[0].split()]
