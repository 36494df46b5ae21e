"""The volumes of an image (`VOLUME` of its Dockerfile), which travel with their container.

For each of them that the pod gives no volume of its own for, containerd makes a directory of the
container and mounts it there. It is in no layer, in no volume of the pod, and goes with the
container: databases keep their data in one. So its content travels as the writable layer does, in
the same passes, and replaces what containerd has put into the new container's directory.

Pure: what a specification says. `dump.ownfiles` reads them, `restore.ownfiles` writes them.
Source: containerd 2.4, internal/cri/server/container_create.go, `volumeMounts`.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

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
