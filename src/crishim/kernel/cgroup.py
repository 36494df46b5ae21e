"""Find the processes of a cgroup, freeze, end and thaw them, on v1 and v2.

Source: cgroups(7); kernel Documentation/admin-guide/cgroup-v2.rst and
cgroup-v1/freezer-subsystem.rst.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from pathlib import Path

from crishim.errors import DeadlineExceeded, NotFound
from crishim.kernel.files import is_there

_POLL_S = 0.0005
_LEGACY = "freezer.state"


def processes(directory: Path) -> list[int]:
    """Return the ids of all processes in a cgroup and below it, in no order.

    A cgroup that vanishes while it is read has no processes; those of a threaded one are listed by
    the cgroup above it.
    Raises: OSError: one cannot be read for another reason, and nobody knows what it has.
    """
    found: list[int] = []
    for path, _, _ in os.walk(directory, onerror=_refuse_unreadable):
        try:
            text = Path(path, "cgroup.procs").read_text(encoding="ascii")
        except OSError as error:
            _refuse_unreadable(error)
            continue
        found += [int(line) for line in text.split()]
    return found


def _refuse_unreadable(error: OSError) -> None:
    if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
        raise error


def freeze(directory: Path, *, timeout_s: float) -> None:
    """Freeze all processes of a cgroup and below; returns when the kernel confirms.

    Raises: NotFound: there is no such cgroup. DeadlineExceeded: some process does not stop (it
        sleeps in the kernel); `thaw` is needed all the same.
    """
    end = time.monotonic() + timeout_s
    while True:
        # v1 takes stock at each write: a process that was being forked is found by the next one.
        _order(directory, frozen=True)
        if is_frozen(directory):
            return
        if time.monotonic() > end:
            raise DeadlineExceeded(f"the processes of {directory.name[:40]} cannot be frozen")
        time.sleep(_POLL_S)


def is_frozen(directory: Path) -> bool:
    """Return whether all processes of a cgroup stand still; raise NotFound if it is gone."""
    try:
        with contextlib.suppress(FileNotFoundError):
            return (directory / _LEGACY).read_text(encoding="ascii").strip() == "FROZEN"
        events = (directory / "cgroup.events").read_text(encoding="ascii")
    except FileNotFoundError as error:
        raise NotFound(f"the cgroup {directory} is gone") from error
    return "frozen 1" in events.split("\n")


def thaw(directory: Path) -> None:
    """Let the processes of a cgroup go on; a cgroup that is gone is fine."""
    try:
        _order(directory, frozen=False)
    except NotFound:
        return


def is_thawed(directory: Path) -> bool:
    """Return whether a cgroup is not to stand still; one that is gone does not.

    It is asked for what was ordered: on v2 the processes go on a moment after that.
    Raises: OSError: nobody can tell.
    """
    legacy = _is_legacy(directory)
    file, word = (_LEGACY, "THAWED") if legacy else ("cgroup.freeze", "0")
    try:
        return (directory / file).read_text(encoding="ascii").strip() == word
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise
        return True


def kill(directory: Path) -> None:
    """Send SIGKILL to all processes of a frozen cgroup and below; one that is gone is fine.

    On v2 they end at once. On v1 they end when they are thawed, without another instruction of
    theirs; until then none of them can go, so that the ids read here stay theirs.
    """
    if _is_legacy(directory):
        for pid in processes(directory):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return
    with contextlib.suppress(FileNotFoundError):
        _write(directory / "cgroup.kill", b"1")


def _order(directory: Path, *, frozen: bool) -> None:
    try:
        if _is_legacy(directory):
            _write(directory / _LEGACY, b"FROZEN" if frozen else b"THAWED")
        else:
            _write(directory / "cgroup.freeze", b"1" if frozen else b"0")
    except FileNotFoundError as error:
        raise NotFound(f"the cgroup {directory} is gone") from error


def _is_legacy(directory: Path) -> bool:
    """Whether it is a cgroup of v1's freezer; a file that cannot be looked at raises OSError."""
    return is_there(directory / _LEGACY)


def _write(file: Path, data: bytes) -> None:
    """Write to a file that is not to be created; raise FileNotFoundError if the cgroup is gone."""
    fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    except OSError as error:
        if error.errno != errno.ENODEV:  # it went after the open
            raise
        raise FileNotFoundError(error.errno, error.strerror, str(file)) from error
    finally:
        os.close(fd)
