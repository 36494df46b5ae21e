"""Which processors threads may run on, and other attributes of the scheduler.

Source: sched(7), sched_setaffinity(2), ioprio_set(2), cpuset(7), proc_pid_cgroup(5).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
from pathlib import Path

RESET_ON_FORK = 0x40000000
_IOPRIO_WHO_PROCESS = 1
_IOPRIO = {"x86_64": (251, 252), "aarch64": (30, 31)}  # ioprio_set, ioprio_get

_libc = ctypes.CDLL(None, use_errno=True)


def threads(pid: int) -> list[int]:
    """Return the ids of a process's threads; none when it is gone."""
    with contextlib.suppress(OSError):
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    return []


def affinity(tid: int) -> frozenset[int]:
    """Return the processors that a thread may run on; none when it is gone."""
    try:
        return frozenset(os.sched_getaffinity(tid))
    except ProcessLookupError:
        return frozenset()


def bind(tid: int, processors: frozenset[int]) -> frozenset[int]:
    """Let a thread run on these processors only, as far as its cpuset has them.

    Returns: those that it may run on now; what it had before if its cpuset has none of them.
    Raises: ProcessLookupError: it is gone.
    """
    try:
        os.sched_setaffinity(tid, processors)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return affinity(tid)


def cpuset(pid: int) -> frozenset[int]:
    """Return the processors that the cgroup of a process lets it use; none if that is unknown."""
    for line in _lines(f"/proc/{pid}/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, name = Path("/sys/fs/cgroup"), "cpuset.cpus.effective"
            if not (root / "cgroup.controllers").exists():
                continue
        elif "cpuset" in controllers.split(","):
            root, name = Path("/sys/fs/cgroup/cpuset"), "cpuset.effective_cpus"
        else:
            continue
        place = root / path.lstrip("/")
        for directory in (place, *place.parents):
            if directory.is_relative_to(root) and (directory / name).exists():
                return parse_list((directory / name).read_text(encoding="ascii"))
    return frozenset()


def parse_list(text: str) -> frozenset[int]:
    """Read a list of the kernel's, such as "0-3,8"."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def io_priority(tid: int) -> int:
    """Return the I/O priority that a thread was given; 0 for none, or where it is unknown."""
    numbers = _IOPRIO.get(platform.machine())
    return max(0, _libc.syscall(numbers[1], _IOPRIO_WHO_PROCESS, tid)) if numbers else 0


def set_io_priority(tid: int, value: int) -> None:
    """Give a thread an I/O priority.

    Raises: OSError: it is gone, or the kernel refuses.
    """
    numbers = _IOPRIO.get(platform.machine())
    if numbers and _libc.syscall(numbers[0], _IOPRIO_WHO_PROCESS, tid, value) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def timer_slack_ns(pid: int) -> int:
    """Return the timer slack of a thread; 0 if it is unknown."""
    return int(next(iter(_lines(f"/proc/{pid}/timerslack_ns")), "0"))


def set_timer_slack(pid: int, slack_ns: int) -> None:
    """Give a thread its timer slack; raise OSError if it is gone or the kernel refuses."""
    Path(f"/proc/{pid}/timerslack_ns").write_text(str(slack_ns), encoding="ascii")


def _lines(path: str) -> list[str]:
    try:
        text = os.fsdecode(Path(path).read_bytes())
    except OSError:
        return []
    return [line for line in text.split("\n") if line]
