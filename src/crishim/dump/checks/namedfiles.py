"""Look at what CRIU has written, before the source is ended: can all of it be opened again?

Judges the paths in the images by the same rules as `openfiles` judges processes, and so finds what
was opened since, or what only CRIU knows. The images are those of this very dump, not yet anybody
else's.
Source: criu/files-reg.c, criu/image-desc.c and images/*.proto of CRIU 4.2.
"""

from __future__ import annotations

import os
import posixpath
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import DecodeError

from crishim._proto.criu import images_pb2
from crishim.archive import criuimages
from crishim.dump import remaps
from crishim.dump.checks import openables, openfiles
from crishim.dump.checks.openables import DELETED, Inside, Named, Obstacle, Place
from crishim.errors import Corrupt, Unsupported
from crishim.kernel import files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from google.protobuf.message import Message

    from crishim.container.resolve import Source

_LINKED, _GHOST, _DEAD_PROCESS = 0, 1, 2
_LINK = Obstacle(
    why="was removed from a volume and has other names there", cure="close it, and try again"
)
_Entry = TypeVar("_Entry", bound="Message")


@dataclass(frozen=True, slots=True)
class _Images:
    """What the images say that paths are judged by.

    Attributes:
        nameless: ids of files whose content CRIU has.
        links: ids of names that CRIU has given to files for the time of its dump.
        dead: ids of processes that CRIU makes for their files in /proc.
        carried: places whose files the archive takes along.
    """

    places: dict[int, Place]
    pids: frozenset[int]
    nameless: frozenset[int]
    links: frozenset[int]
    dead: frozenset[int]
    carried: frozenset[str]


def check(directory: Path, source: Source, *, stop: bool) -> None:
    """Look through the images of a dump; blocks.

    Args:
        directory: CRIU's images.
        stop: the container is going to be ended, and its pod after it.
    Raises: Unsupported: names the first file that could not be opened in the next pod, and the
        cure. Corrupt: an image cannot be read.
    """
    names = openfiles.names_of(source)
    fresh = openfiles.fresh_of(source, stop=stop)
    carried = frozenset(place.destination for place in remaps.places(source))
    images = _read(directory, fresh, carried)
    for file in _entries(directory / "files.img", criuimages.FILES_MAGIC, images_pb2.File):
        if file.HasField("reg") and not file.reg.ext:
            path, found = _of_file(file, images, names)
        elif file.HasField("usk") and file.usk.name.startswith(b"/"):
            path, found = _of_socket(file.usk, images, names)
        else:
            continue
        if found is not None:
            raise Unsupported(
                f"the checkpoint cannot be restored: a process holds {path}, which {found.why}",
                hint=found.cure,
            )


def _read(directory: Path, fresh: frozenset[str], carried: frozenset[str]) -> _Images:
    places = {}
    tables = [path for path in files.entries(directory) if path.match("mountpoints-*.img")]
    for path in tables:
        for mount in _entries(path, criuimages.MOUNTS_MAGIC, images_pb2.Mount):
            place = "/" + os.fsdecode(mount.mountpoint).removeprefix(".").lstrip("/")
            places[mount.mnt_id] = Place(
                mount_point=place,
                fs_type=criuimages.file_system(mount),
                root=os.fsdecode(mount.root),
                external=mount.ext_mount,
                fresh=place in fresh,
            )
    tree = _entries(directory / "pstree.img", criuimages.PSTREE_MAGIC, images_pb2.Process)
    made: list[images_pb2.Remap] = []
    if (path := directory / "remap-fpath.img").exists():
        made += _entries(path, criuimages.REMAPS_MAGIC, images_pb2.Remap)
    return _Images(
        places=places,
        pids=frozenset(process.pid for process in tree),
        nameless=frozenset(remap.orig_id for remap in made if remap.remap_type == _GHOST),
        links=frozenset(remap.remap_id for remap in made if remap.remap_type == _LINKED),
        dead=frozenset(remap.remap_id for remap in made if remap.remap_type == _DEAD_PROCESS),
        carried=carried,
    )


def _of_file(
    file: images_pb2.File, images: _Images, names: tuple[str, ...]
) -> tuple[str, Obstacle | None]:
    path = os.fsdecode(file.reg.name)
    place = _place(path, file.reg.mnt_id, images)
    if place is None or file.id in images.nameless:
        return path, None
    if file.id in images.links and place.mount_point not in images.carried:
        return path, _LINK
    named = Named(
        path=path,
        place=place,
        writable=file.reg.flags & os.O_ACCMODE != os.O_RDONLY,
        directory=stat.S_ISDIR(file.reg.mode),
        size=file.reg.size,
    )
    return path, openables.obstacle(named, _inside(path, images, names))


def _of_socket(
    socket: images_pb2.UnixSocket, images: _Images, names: tuple[str, ...]
) -> tuple[str, Obstacle | None]:
    """Judge where a socket is bound: the directory must be there, the rest CRIU makes."""
    path = os.fsdecode(socket.name.rstrip(b"\0"))
    directory = posixpath.dirname(path)
    place = _place(directory, socket.mnt_id, images)
    if place is None:
        return path, None
    named = Named(path=directory, place=place)
    return path, openables.obstacle(named, _inside(path, images, names))


def _place(path: str, mount_id: int, images: _Images) -> Place | None:
    found = images.places.get(mount_id)
    return found or openables.place_of(path, list(images.places.values()))


def _inside(path: str, images: _Images, names: tuple[str, ...]) -> Inside:
    """Return what the container brings along; a process that nobody makes again is another's."""
    parts = path.removesuffix(DELETED).split("/")
    pid = int(parts[2]) if len(parts) > 2 and parts[2].isdecimal() else 0
    known = images.pids | images.dead
    return Inside(pids=images.pids, others=frozenset((pid,)) - known, names=names)


def _entries(path: Path, magic: int, kind: type[_Entry]) -> Iterator[_Entry]:
    for body in criuimages.bodies(path.read_bytes(), path.name, magic):
        try:
            yield kind.FromString(body)
        except DecodeError as error:
            raise Corrupt(f"{path.name} is damaged") from error
