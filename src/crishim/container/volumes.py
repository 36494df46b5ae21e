"""The volumes of an image (`VOLUME` of its Dockerfile), which travel with their container.

For each of them that the pod gives no volume of its own for, containerd makes a directory of the
container and mounts it there. It is in no layer, in no volume of the pod, and goes with the
container: databases keep their data in one. So its content travels as the writable layer does, in
the same passes, and replaces what containerd has put into the new container's directory.

This module must never know how a directory is read or written: `dump.layer` and `layer.apply` do.
Source: containerd 2.4, internal/cri/server/container_create.go, `volumeMounts`.
"""

from __future__ import annotations

import os
import posixpath
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crishim.dump.layer import LayerDump
from crishim.errors import Precondition
from crishim.kernel.atomic import storage_errors
from crishim.kernel.tree import remove_content
from crishim.layer.apply import apply_members, plain_overlay
from crishim.layer.known import FILES_MAX
from crishim.oci import devices

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable, Collection, Mapping, Sequence

    from crishim.archive.reader import ArchiveReader
    from crishim.archive.writer import ArchiveWriter
    from crishim.container.resolve import Source
    from crishim.dump.workspace import Workspace

_DIRECTORY = re.compile(r"/.*/containers/([^/]+)/volumes/[^/]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageVolume:
    """One volume of a container's image.

    Attributes:
        destination: where the container has it, normalized.
        directory: where it lies on the node.
    """

    destination: str
    directory: Path


def of_container(spec: Mapping[str, Any], container_id: str) -> list[ImageVolume]:
    """Return the volumes of a container's image by their destinations.

    Args: spec: its OCI runtime spec.
    """
    found = []
    for mount in spec.get("mounts") or []:
        source = str(mount.get("source", ""))
        match = _DIRECTORY.fullmatch(source)
        if match is not None and match[1] == container_id:
            destination = posixpath.normpath(str(mount.get("destination")))
            found.append(ImageVolume(destination=destination, directory=Path(source)))
    return sorted(found, key=lambda volume: volume.destination)


def members(number: int) -> tuple[str, str, str]:
    """Return where an archive keeps what the passes over the volume of this number have found."""
    name = f"image-volume-{number}"
    return f"{name}.tar", f"{name}.2.tar", f"{name}.3.tar"


class OwnFilesDump:
    """All files that are a container's own: its writable layer and the volumes of its image.

    The passes are those of `LayerDump`.
    """

    def __init__(
        self,
        source: Source,
        writer: ArchiveWriter,
        *,
        pids: Callable[[], Collection[int]],
        files_max: int = FILES_MAX,
    ) -> None:
        allowed = devices.allowed(source.container.spec)
        self._layer = LayerDump(
            source.layer, writer, pids=pids, device_allowed=allowed, files_max=files_max
        )
        volumes = of_container(source.container.spec, source.container.id)
        self._parts = [self._layer]
        self._parts += [
            LayerDump(
                plain_overlay(volume.directory),
                writer,
                pids=pids,
                device_allowed=allowed,
                members=members(number),
                place=volume.destination,
                files_max=files_max,
            )
            for number, volume in enumerate(volumes)
        ]

    @property
    def layer_bytes(self) -> int:
        """How much the passes so far have put into the archive."""
        return sum(part.layer_bytes for part in self._parts)

    @property
    def copied_bytes(self) -> int:
        """How much the pass that goes on has copied so far."""
        return sum(part.copied_bytes for part in self._parts)

    async def first_pass(self) -> None:
        """Copy everything; the processes run."""
        for part in self._parts:
            await part.first_pass()

    async def catch_up(self) -> None:
        """Copy what has changed since; the processes run."""
        for part in self._parts:
            await part.catch_up()

    async def last_pass(self, workspace: Workspace, undo: contextlib.AsyncExitStack) -> None:
        """Copy what has changed since; the processes are frozen.

        Args: undo: closes the files that wait for `add`.
        """
        for part in self._parts:
            await part.last_pass(workspace, undo)

    async def add_links(self, links: Mapping[Path, Mapping[str, int]]) -> None:
        """Add further names of files; see `LayerDump.add_links`."""
        for part in self._parts:
            await part.add_links(links)

    def cancel(self) -> None:
        """Make a running pass end soon with an error."""
        for part in self._parts:
            part.cancel()

    def add(self) -> None:
        """Put into the archive what the last pass has found; blocks."""
        for part in self._parts:
            part.add()


def apply(
    archive: ArchiveReader,
    destinations: Sequence[str],
    volumes: Sequence[ImageVolume],
    *,
    device_allowed: Callable[[bool, int, int], bool],
) -> None:
    """Write an archive's volumes into those of a container that does not run yet; blocks.

    Args:
        destinations: of the archive's volumes, in the order of its manifest.
        volumes: the new container's, whose content is replaced.
    Raises: Precondition: it has none at one of the destinations; and as `apply_members`.
    """
    there = {volume.destination: volume.directory for volume in volumes}
    for number, destination in enumerate(destinations):
        directory = there.get(destination)
        if directory is None:
            raise Precondition(f"the container's image has no volume at {destination}")
        with storage_errors(f"cannot write the volume {destination}"):
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                remove_content(fd)
            finally:
                os.close(fd)
        apply_members(
            archive, plain_overlay(directory), members(number), device_allowed=device_allowed
        )
