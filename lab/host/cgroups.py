"""The lab's own directories in the machine's cgroup hierarchies, version 1 and 2.

Each node owns LAB/NODE in every hierarchy. On version 2 its processes live in the leaf `init`
below that, because a cgroup that hands controllers to its children may hold no process itself.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError

LEAF = "init"
_CONTROLLERS = "cgroup.controllers"
_NEEDED = ("cpu", "memory", "pids")
_KILL_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted cgroup hierarchy. `options` are what a version 1 mount needs to be repeated."""

    point: Path
    version: int
    options: str = ""


def hierarchies(mountinfo: str | None = None) -> list[Hierarchy]:
    """Return each hierarchy once, from the text of /proc/self/mountinfo."""
    text = Path("/proc/self/mountinfo").read_text() if mountinfo is None else mountinfo
    found: dict[str, Hierarchy] = {}
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, (fstype, _source, super_options) = before.split(" "), after.split(" ")[:3]
        if fstype == "cgroup":
            names = [option for option in super_options.split(",") if option not in ("rw", "ro")]
            names = [name for name in names if not name.startswith("release_agent=")]
            hierarchy = Hierarchy(Path(fields[4]), 1, ",".join(names))
        elif fstype == "cgroup2":
            hierarchy = Hierarchy(Path(fields[4]), 2)
        else:
            continue
        found.setdefault(fields[2], hierarchy)
    return list(found.values())


def create(path: str) -> None:
    """Make the cgroup LAB/NODE in every hierarchy, ready to take processes."""
    for hierarchy in hierarchies():
        at = hierarchy.point
        for name in path.split("/"):
            if hierarchy.version == 2:
                _hand_down_controllers(at)
            at = at / name
            at.mkdir(exist_ok=True)
            if (at / "cpuset.cpus").exists() and hierarchy.version == 1:
                for key in ("cpuset.cpus", "cpuset.mems"):
                    (at / key).write_text((at.parent / key).read_text())


def join(path: str, leaf: str = "") -> None:
    """Move this process into the cgroup, in every hierarchy; `leaf` counts on version 2 only."""
    for hierarchy in hierarchies():
        at = hierarchy.point / path
        if leaf and hierarchy.version == 2:
            at = at / leaf
            at.mkdir(exist_ok=True)
        (at / "cgroup.procs").write_text("0")


def delegate(path: str) -> None:
    """Let the node hand its controllers to the cgroups below it."""
    for hierarchy in hierarchies():
        if hierarchy.version == 2:
            _hand_down_controllers(hierarchy.point / path)


def _hand_down_controllers(at: Path) -> None:
    wanted = set((at / _CONTROLLERS).read_text().split())
    control = at / "cgroup.subtree_control"
    for name in sorted(wanted - set(control.read_text().split())):
        try:
            control.write_text(f"+{name}")
        except OSError as refused:
            if name not in _NEEDED:
                continue
            raise LabError(f"{control}: cannot enable {name}: {refused.strerror}") from refused


def members(path: str) -> set[int]:
    """Return the processes in the cgroup and all below it."""
    pids: set[int] = set()
    for directory in _below(path):
        try:
            pids.update(int(pid) for pid in (directory / "cgroup.procs").read_text().split())
        except OSError:  # gone in the meantime, or a threaded cgroup, listed by its parent
            continue
    return pids - {0, os.getpid()}


def kill_members(path: str) -> None:
    """Thaw and kill every process in the cgroup and below, and wait until they are gone.

    Raises: LabError: some are still there after 20 s.
    """
    deadline = time.monotonic() + _KILL_TIMEOUT_S
    while pids := members(path):
        # A frozen task of version 1 takes no signal, and one holds its whole pid namespace.
        thaw(path)
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if time.monotonic() > deadline:
            raise LabError(f"processes survive SIGKILL: {sorted(pids)}")
        time.sleep(0.02)


def thaw(path: str) -> None:
    """Thaw whatever is frozen in the cgroup and below."""
    for directory in _below(path):
        for name, thawed in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
            try:
                (directory / name).write_text(thawed)
            except OSError:  # the other version's file, or gone in the meantime
                continue


def remove(path: str) -> None:
    """Remove the empty cgroup and all below it, in every hierarchy; missing ones are fine.

    Raises: LabError: a cgroup stays busy.
    """
    for directory in reversed(_below(path)):
        deadline = time.monotonic() + _KILL_TIMEOUT_S
        while True:
            try:
                directory.rmdir()
            except FileNotFoundError:
                break
            except OSError as busy:  # the kernel frees ended members a moment later
                if time.monotonic() > deadline:
                    raise LabError(f"{directory}: {busy.strerror}") from busy
                time.sleep(0.02)
            else:
                break


def _below(path: str) -> list[Path]:
    """Return the cgroup's directories in all hierarchies, parents before children."""
    found: list[Path] = []
    for hierarchy in hierarchies():
        found += [Path(top) for top, _, _ in os.walk(hierarchy.point / path)]
    return found
