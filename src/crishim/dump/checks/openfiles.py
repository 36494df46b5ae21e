"""Refuse processes that hold what CRIU cannot dump, or could not open in the next pod.

Looks at everything that the processes of a container have open, mapped, or as their directories,
before anything is touched. What they open later is found in the images (`namedfiles`).
Source: criu/files.c, criu/files-reg.c and criu/pidfd.c of CRIU 4.2.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crishim.dump.checks import openables
from crishim.dump.checks.openables import DELETED, Inside, Named, Place
from crishim.errors import NotFound, Unsupported
from crishim.kernel import mounts, openlinks, procs

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from crishim.container.resolve import Source
    from crishim.kernel.openlinks import OpenLink

_ANONYMOUS = frozenset(
    (
        *("[eventfd]", "[eventpoll]", "inotify", "[fanotify]", "[signalfd]", "[timerfd]"),
        *("[pidfd]", "[io_uring]"),  # the latter is refused elsewhere, with a cure
    )
)
_CHARACTER_MAJORS = frozenset((1, 4, 5, *range(136, 144), 188, 204))
"""Memory devices and terminals; see `kernel Documentation/admin-guide/devices.txt`."""

_CHARACTER_DEVICES = frozenset(((10, 200), (10, 235)))
"""TUN and autofs."""

_POD_UID_CHARS_MIN = 32


@dataclass(frozen=True, slots=True)
class _View:
    """Where the files of one container lie."""

    by_id: Mapping[int, Place]
    by_process: Mapping[int, list[Place]]  # none where nobody sees the whole table
    inside: Inside
    queues: frozenset[str]  # devices on which POSIX message queues lie


def check(source: Source, pids: Collection[int], *, stop: bool) -> None:
    """Look through the processes of a running container; blocks.

    Args: stop: the container is going to be ended, and its pod after it.
    Raises: Unsupported: names the process, what it holds, why that cannot be, and the cure.
        NotFound: the container is gone.
    """
    fresh = fresh_of(source, stop=stop)
    view = _view(source, pids, fresh)
    seen: set[tuple[str, int, int]] = set()
    for pid in pids:
        for link in openlinks.of_process(pid):
            key = (link.target, link.mount_id, link.flags)
            if key not in seen:
                seen.add(key)
                _judge(pid, link, view, pids)
    if fresh:
        for pid, path in openlinks.bound_sockets(source.container.pid, pids):
            directory = posixpath.dirname(path)
            if place := openables.place_of(directory, view.by_process.get(pid, [])):
                _refuse(pid, "socket", Named(path=directory, place=place), view.inside)


def names_of(source: Source) -> tuple[str, ...]:
    """Return the ids that paths of this container's cgroups, and of no other's, are made of."""
    uid = source.sandbox.status.metadata.uid
    names = [source.container.id, source.sandbox.id]
    if len(uid) >= _POD_UID_CHARS_MIN:
        names += [uid, uid.replace("-", "_")]
    return tuple(names)


def fresh_of(source: Source, *, stop: bool) -> frozenset[str]:
    """Return where the container has volumes that a new pod has anew.

    Args: stop: without it the volumes stay where they are, and whoever restores can copy them.
    """
    if not stop:
        return frozenset()
    return openables.fresh_places(source.container.spec, os.path.isdir)


def _view(source: Source, pids: Collection[int], fresh: frozenset[str]) -> _View:
    external = {
        posixpath.normpath(str(mount.get("destination")))
        for mount in source.container.spec.get("mounts") or []
        if mount.get("type") == "bind" or "rbind" in (mount.get("options") or [])
    }
    tables: dict[str, list[Place]] = {}
    by_id: dict[int, Place] = {}
    namespaces: dict[int, str] = {}
    queues: set[str] = set()
    for pid in pids:
        with procs.looking_into(pid):
            namespace = os.readlink(f"/proc/{pid}/ns/mnt")
            namespaces[pid] = namespace
            # A process that has changed its root sees a part of the table, by other paths.
            if namespace not in tables and os.readlink(f"/proc/{pid}/root") == "/":
                table = mounts.read_mounts(pid)
                tables[namespace] = [
                    Place(
                        mount_point=mount.mount_point,
                        fs_type=mount.fs_type,
                        root=mount.root,
                        external=mount.mount_point in external,
                        fresh=mount.mount_point in fresh,
                    )
                    for mount in table
                ]
                ids = (mount.mount_id for mount in table)
                by_id |= dict(zip(ids, tables[namespace], strict=True))
                queues |= {mount.device for mount in table if mount.fs_type == "mqueue"}
    if not namespaces:
        raise NotFound(f"the container's process {source.container.pid} is gone")
    by_process = {pid: tables.get(namespace, []) for pid, namespace in namespaces.items()}
    return _View(by_id, by_process, _inside(source, pids), frozenset(queues))


def _inside(source: Source, pids: Collection[int]) -> Inside:
    ours = openlinks.ids_inside(pids)
    visible: set[int] = set()
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        names = os.listdir(f"/proc/{source.container.pid}/root/proc")
        visible = {int(name) for name in names if name.isdecimal()}
    return Inside(pids=ours, others=frozenset(visible - ours), names=names_of(source))


def _judge(pid: int, link: OpenLink, view: _View, pids: Collection[int]) -> None:
    kind, _, name = link.target.partition(":")
    if kind == "anon_inode":
        _anonymous(pid, link, name, pids)
    elif link.target.startswith("/secretmem"):
        raise Unsupported(
            f"{procs.title(pid)} has secret memory (memfd_secret), which nobody can read",
            hint="run the program without it",
        )
    elif link.target.startswith("/"):
        _named(pid, link, view)


def _anonymous(pid: int, link: OpenLink, name: str, pids: Collection[int]) -> None:
    if name not in _ANONYMOUS:
        raise Unsupported(
            f"{procs.title(pid)} has {name.strip('[]')} open ({link.what}), which CRIU cannot dump",
            hint="let the program close it, or run it without",
        )
    if name == "[pidfd]" and link.flags & os.O_EXCL:
        raise Unsupported(
            f"{procs.title(pid)} has a descriptor of a thread ({link.what}): CRIU dumps none",
            hint="let the program use one of the process, without PIDFD_THREAD",
        )
    if name == "[pidfd]" and link.process > 0 and link.process not in pids:
        raise Unsupported(
            f"{procs.title(pid)} has a descriptor of a process ({link.what}) that is not part of "
            "the container",
            hint="let the program close it",
        )


def _named(pid: int, link: OpenLink, view: _View) -> None:
    """Judge what has a path; memory that only looks as if it had one is on no mount."""
    if link.mount_id in view.by_id:
        place: Place | None = view.by_id[link.mount_id]
    elif link.mount_id < 0 or not view.by_process.get(pid):
        place = openables.place_of(link.target, view.by_process.get(pid, []))
    elif _is_queue(link, view):
        raise Unsupported(
            f"{procs.title(pid)} has the POSIX message queue {link.target} open ({link.what}), "
            "which CRIU cannot dump",
            hint="let the program close it, or use a pipe or a UNIX socket instead",
        )
    elif link.target.endswith(DELETED):
        return
    else:
        raise Unsupported(
            f"{procs.title(pid)} has {link.target} open ({link.what}), which lies outside the "
            "container",
            hint="close it, or give it to the container as a volume",
        )
    if place is None:
        return
    size, directory = 0, False
    # A volume's server may be dead, and then a look at its files hangs.
    if not place.external or place.fresh:
        with contextlib.suppress(OSError):
            status = os.stat(link.link)
            _kind(pid, link, status)
            size, directory = _size(link, status), stat.S_ISDIR(status.st_mode)
    named = Named(
        path=link.target,
        place=place,
        writable=link.writable,
        directory=directory,
        size=size,
    )
    _refuse(pid, link.what, named, view.inside)


def _is_queue(link: OpenLink, view: _View) -> bool:
    """Return whether a file on no mount of the container is a POSIX message queue, named or not."""
    if link.target.count("/") > 1:  # its server may be dead, and then a look at it hangs
        return False
    with contextlib.suppress(OSError):
        number = os.stat(link.link).st_dev
        return f"{os.major(number)}:{os.minor(number)}" in view.queues
    return False


def _kind(pid: int, link: OpenLink, status: os.stat_result) -> None:
    """Refuse devices that CRIU does not know, and what cannot be opened again by its path."""
    device = (os.major(status.st_rdev), os.minor(status.st_rdev))
    known = device[0] in _CHARACTER_MAJORS or device in _CHARACTER_DEVICES
    if stat.S_ISBLK(status.st_mode) or (stat.S_ISCHR(status.st_mode) and not known):
        raise Unsupported(
            f"{procs.title(pid)} has the device {link.target} open ({link.what}), which CRIU "
            "cannot dump",
            hint="let the program close it",
        )
    if stat.S_ISSOCK(status.st_mode):
        raise Unsupported(
            f"{procs.title(pid)} has the file {link.target} of a UNIX socket open ({link.what}), "
            "which CRIU takes for the socket",
            hint="let the program close it (it was opened with O_PATH)",
        )


def _size(link: OpenLink, status: os.stat_result) -> int:
    """Return the size by which CRIU will tell the file, 0 if it will not."""
    appends = link.flags & os.O_ACCMODE == os.O_WRONLY and link.flags & os.O_APPEND
    return status.st_size if stat.S_ISREG(status.st_mode) and not appends else 0


def _refuse(pid: int, what: str, named: Named, inside: Inside) -> None:
    if found := openables.obstacle(named, inside):
        raise Unsupported(
            f"{procs.title(pid)} holds {named.path} ({what}), which {found.why}", hint=found.cure
        )
