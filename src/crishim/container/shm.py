"""The pod's shared memory (/dev/shm): where it lies on the node, and in an archive. Pure.

It is a directory of the pod that containers have mounted: in no layer, and shared by all of them.
`dump.shm` copies it, `restore.shm` writes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

MEMBER = "devshm-checkpoint.tar"
"""The name that Podman gave it."""

PLACE = "/dev/shm"  # noqa: S108  it is the place meant


def directory(spec: dict[str, Any]) -> Path | None:
    """Return where a container's shared memory lies on the node.

    Args: spec: the OCI runtime spec.
    Returns: None if it has none of its pod's, as with hostIPC, where it is the node's own.
    """
    for mount in spec.get("mounts") or []:
        if mount.get("destination") == PLACE and mount.get("type") == "bind":
            source = Path(str(mount.get("source")))
            return None if source == Path(PLACE) else source
    return None
