"""What an archive says of itself, and what CRIU's images in it say: for people who ask.

This module must never know a message or a caller.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from crishim.archive import criuimages
from crishim.archive.reader import ArchiveReader
from crishim.errors import CrishimError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from crishim.archive.criuimages import InetSocket, Mount, Process
    from crishim.archive.manifest import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What an archive says of itself.

    Attributes:
        manifest: None if the archive cannot be read.
        error: why not.
    """

    archive: Path
    archive_bytes: int
    manifest: Manifest | None
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What is inside an archive, whoever has written it.

    Attributes: mounts: those from outside with where they come from.
    """

    archive: Path
    archive_bytes: int
    manifest: Manifest
    processes: tuple[Process, ...]
    sockets: tuple[InetSocket, ...]
    mounts: tuple[Mount, ...]


def summarize(archive: Path) -> Summary:
    """Read what an archive of the store says of itself. Blocks.

    Raises: OSError: it is not there any more.
    """
    size = archive.stat().st_size
    try:
        with ArchiveReader.open(archive) as reader:
            return Summary(archive=archive, archive_bytes=size, manifest=reader.manifest())
    except CrishimError as error:
        return Summary(archive=archive, archive_bytes=size, manifest=None, error=str(error))


def inspect(archive: Path) -> Inspection:
    """Read what is inside an archive. Blocks.

    Raises: NotFound, Precondition, Unsupported, Corrupt: it cannot be read.
    """
    with ArchiveReader.open(archive, trusted_owner=False) as reader:
        manifest = reader.manifest()
        return Inspection(
            archive=archive,
            archive_bytes=reader.archive_bytes,
            manifest=manifest,
            processes=tuple(criuimages.processes(reader)),
            sockets=tuple(criuimages.sockets(reader)),
            mounts=tuple(_mounts(reader, manifest)),
        )


def _mounts(reader: ArchiveReader, manifest: Manifest) -> Iterator[Mount]:
    bound = {mount.destination: mount.source for mount in manifest.bind_mounts}
    for mount in criuimages.mounts(reader):
        source = bound.get(mount.destination)
        yield mount if source is None else replace(mount, type="bind", source=source)
