"""Write the volumes of an image from an archive into those of a new container."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from crishim.container.volumes import members
from crishim.errors import Precondition
from crishim.kernel.atomic import storage_errors
from crishim.kernel.tree import remove_content
from crishim.layer.apply import apply_members
from crishim.layer.overlay import plain_overlay

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from crishim.archive.reader import ArchiveReader
    from crishim.container.volumes import ImageVolume


def apply_volumes(
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
