"""Find the processes of a cgroup, freeze and thaw them, on v1 and v2.

Source: cgroups(7); kernel Documentation/admin-guide/cgroup-v2.rst and
cgroup-v1/freezer-subsystem.rst.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from crishim.errors import DeadlineExceeded, NotFound

_POLL_S = 0.0005


def processes(directory: Path) -> list[int]:
    """Return the ids of all processes in a cgroup and below it, in no order.

    A cgroup that vanishes while it is read has no processes.
    """
    found: list[int] = []
    for path, _, _ in os.walk(directory):
        try:
            text = Path(path, "cgroup.procs").read_text(encoding="ascii")
        except OSError:
            continue
        found += [int(line) for line in text.split()]
    return found


def freeze(directory: Path, *, timeout_s: float) -> None:
    """Freeze all processes of a cgroup and below; returns when the kernel confirms.

    Raises: NotFound: there is no such cgroup. DeadlineExceeded: some process does not stop (it
        sleeps in the kernel); `thaw` is needed all the same.
    """
    end = time.monotonic() + timeout_s
    while True:
        # v1 takes stock at each write: a process that was being forked is found by the next one.
        _order(directory, frozen=True)
        if _frozen(directory):
            return
        if time.monotonic() > end:
            raise DeadlineExceeded(f"the processes of {directory.name[:40]} cannot be frozen")
        time.sleep(_POLL_S)


def thaw(directory: Path) -> None:
    """Let the processes of a cgroup go on; a cgroup that is gone is fine."""
    try:
        _order(directory, frozen=False)
    except NotFound:
        return


def _order(directory: Path, *, frozen: bool) -> None:
    legacy = directory / "freezer.state"
    try:
        if legacy.exists():
            legacy.write_text("FROZEN" if frozen else "THAWED", encoding="ascii")
        else:
            # Not to be created where the cgroup is gone.
            fd = os.open(directory / "cgroup.freeze", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, b"1" if frozen else b"0")
            finally:
                os.close(fd)
    except FileNotFoundError as error:
        raise NotFound(f"the cgroup {directory} is gone") from error


def _frozen(directory: Path) -> bool:
    legacy = directory / "freezer.state"
    if legacy.exists():
        return legacy.read_text(encoding="ascii").strip() == "FROZEN"
    events = (directory / "cgroup.events").read_text(encoding="ascii")
    return "frozen 1" in events.splitlines()
