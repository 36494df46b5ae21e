"""Will everything that a restore opens be there in the next pod?

CRIU reopens files, directories and programs by their paths. A path that is there now need not be
there then, and a container that was stopped on the strength of it is lost. So each path that a
process holds is judged twice: before anything is touched (`openfiles` looks at the processes), and
again from the images that CRIU has written, before their source is ended (`namedfiles`).

What is let pass: the container's own root file system, which travels; volumes of the pod, which
are found again by their place; what kernel and runtime make anew in any container. This module
takes values and returns values, and must never know processes or images.
Source: criu/files-reg.c, criu/files.c and criu/cr-restore.c of CRIU 4.2: all processes are made
first, then each opens its files, and threads come last.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

DELETED = " (deleted)"
_TRIGGERS = frozenset(f"{name}.pressure" for name in ("cpu", "io", "irq", "memory"))
_SILLY_NAME = re.compile(r"\.nfs[0-9a-f]{24}")
_NEW_IN_A_POD = re.compile(
    r"/.*/pods/[^/]+/(?:"
    r"volumes/kubernetes\.io~(?:empty-dir|configmap|secret|projected|downward-api)/[^/]+"
    r"|containers/[^/]+/[^/]+)"
)
_SUB_PATH = re.compile(r"(/.*/pods/[^/]+)/volume-subpaths/([^/]+)/[^/]+/[^/]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A mount of the container.

    Attributes:
        root: which part of the file system it shows.
        external: it comes from outside, as volumes do.
        fresh: a volume that a new pod has anew: nothing that was written into it is there.
    """

    mount_point: str
    fs_type: str
    root: str = "/"
    external: bool = False
    fresh: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """What a process holds by a path.

    Attributes:
        path: as the container sees it; with " (deleted)" where the name is gone.
        writable: it was opened for writing.
        directory: it is one.
        size: that the file must have again, in bytes; 0 if it need not.
    """

    path: str
    place: Place
    writable: bool = False
    directory: bool = False
    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """What the container brings along, and what it does not.

    Attributes:
        pids: of its processes, as its pid namespace counts.
        others: of living processes that it sees in /proc and that are not its own.
        names: ids of the container and its pod, of which paths of cgroups are made.
    """

    pids: frozenset[int]
    others: frozenset[int]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """Why something could not be opened in the next pod, and what to do about it."""

    why: str
    cure: str


def obstacle(named: Named, inside: Inside) -> Obstacle | None:
    """Return what will keep CRIU from opening a path in the next pod; None if nothing is known."""
    kind, below = named.place.fs_type, _below(named.path, named.place)
    if kind == "proc":
        return _of_a_process(below, named, inside) if below[:1].isdigit() else _trigger(named)
    if kind in ("cgroup", "cgroup2"):
        return _in_cgroup(named, inside)
    if kind.startswith("nfs") and _SILLY_NAME.fullmatch(posixpath.basename(named.path)):
        return Obstacle(
            why="was removed, and its NFS client keeps it only as long as it is open",
            cure="close it",
        )
    if named.place.fresh and (below or named.size) and not named.path.endswith(DELETED):
        return Obstacle(
            why=f"lies in a volume ({named.place.mount_point}) that a new pod has anew, without it",
            cure="close it, keep it in a persistent volume, or checkpoint without stopping",
        )
    return None


def place_of(path: str, places: Sequence[Place]) -> Place | None:
    """Return on which mount a path lies, of those in the order of a mount table."""
    found = None
    for place in places:
        prefix = place.mount_point.rstrip("/") + "/"
        inner = found is None or len(place.mount_point) >= len(found.mount_point)
        if inner and (path == place.mount_point or path.startswith(prefix)):
            found = place
    return found


def fresh_places(spec: Mapping[str, Any], is_directory: Callable[[str], bool]) -> frozenset[str]:
    """Return where a container has volumes that a kubelet makes anew for each pod.

    Args:
        spec: its OCI runtime spec.
        is_directory: asked whether a path of the node is one.
    """

    def fresh(source: str) -> bool:
        if match := _SUB_PATH.fullmatch(source):
            volume = f"{match[1]}/volumes/kubernetes.io~empty-dir/{match[2]}"
            return is_directory(volume) and is_directory(source)
        return _NEW_IN_A_POD.fullmatch(source) is not None

    return frozenset(
        posixpath.normpath(str(mount.get("destination")))
        for mount in spec.get("mounts") or []
        if fresh(str(mount.get("source", "")))
    )


def _below(path: str, place: Place) -> str:
    return path.removeprefix(place.mount_point).lstrip("/")


def _of_a_process(below: str, named: Named, inside: Inside) -> Obstacle | None:
    """Judge a path of /proc that begins with a process id."""
    parts = below.removesuffix(DELETED).split("/")
    pid = int(parts[0]) if parts[0].isdecimal() else 0
    if len(parts) > 2 and parts[1] == "task" and parts[2] != parts[0]:
        return Obstacle(
            why="belongs to a thread, and CRIU opens files before there are threads",
            cure="close it after each reading, or use the file of the process",
        )
    foreign = pid not in inside.pids if named.place.external else pid in inside.others
    if foreign and pid != 1:
        return Obstacle(
            why="belongs to a process that is not part of the container", cure="close it"
        )
    # CRIU 4.2 writes such a name with garbage behind it (check_path_remap in files-reg.c).
    if len(parts) == 1 and not named.path.endswith(DELETED) and not named.place.external:
        return Obstacle(
            why="is the directory of a process, whose name CRIU garbles",
            cure="use a file or a directory in it",
        )
    return None


def _in_cgroup(named: Named, inside: Inside) -> Obstacle | None:
    if any(name in named.path for name in inside.names):
        return Obstacle(
            why="is named after this container or pod, and the next one has another name",
            cure="open it as /sys/fs/cgroup shows it inside the container, or close it",
        )
    below = _below(named.path, named.place)
    inner = "/" in below or (below and named.directory)
    if inner and any(name in named.place.root for name in inside.names):
        return Obstacle(
            why="lies in a cgroup that was made inside the container, which the next one has not",
            cure="close it",
        )
    return _trigger(named)


def _trigger(named: Named) -> Obstacle | None:
    """Judge files through which a program asks to be woken up; CRIU reopens them without that."""
    directory, _, name = named.path.rpartition("/")
    pressure = name in _TRIGGERS or posixpath.basename(directory) == "pressure"
    if named.writable and (pressure or name == "cgroup.event_control"):
        return Obstacle(
            why="would no longer wake the program up: CRIU does not know what it has written there",
            cure="let the program close it (systemd: MEMORY_PRESSURE_WATCH=off)",
        )
    return None
