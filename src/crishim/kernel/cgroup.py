"""Find the cgroup of a process and the processes below it, on cgroup v1 and v2.

Freezing is runc's business; this module only reads.
Source: cgroups(7); kernel Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import os
from pathlib import Path

from crishim.errors import NotFound

_MOUNT = Path("/sys/fs/cgroup")
_UNIFIED = _MOUNT / "cgroup.controllers"


def of(pid: int) -> Path:
    """Return the directory of a process's cgroup: the unified one, or the freezer's on v1.

    Raises: NotFound: the process is gone, or the hierarchy is not mounted.
    """
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise NotFound(f"process {pid} is gone") from error
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if _UNIFIED.exists() and controllers == "":
            return _MOUNT / path.lstrip("/")
        if not _UNIFIED.exists() and "freezer" in controllers.split(","):
            return _MOUNT / "freezer" / path.lstrip("/")
    raise NotFound(f"process {pid} is in no cgroup that can be frozen")


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
