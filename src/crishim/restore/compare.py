"""Compare a checkpoint with the container that it is to be restored into, before CRIU does.

What CRIU would find out after the old container is gone is found here; each refusal names all that
is missing at once.
"""

from __future__ import annotations

import platform
import posixpath
from typing import TYPE_CHECKING, Any

from crishim._proto.runtime.v1 import api_pb2
from crishim.container import describe, volumes
from crishim.errors import Precondition, Unsupported

if TYPE_CHECKING:
    from pathlib import Path

    from crishim.archive.manifest import Manifest
    from crishim.containerd.cri import Container, Sandbox

_CREATED = 0
# Made by the runtime for each pod or container, whatever the pod's specification says.
_RUNTIME_MOUNTS = ("/proc", "/sys", "/dev")
_PORTABLE_FEATURES = ("avx", "avx2", "avx512", "amx", "bmi", "sse", "fma", "aes", "sha", "vaes")


def check(created: Container, manifest: Manifest, archive: Path) -> None:
    """Refuse a container that does not fit.

    Raises: Precondition: it was started already, lacks bind mounts, or the node has another
        architecture or lacks CPU features. Unsupported: it has a terminal or a user namespace.
    """
    if created.status.state != _CREATED:
        raise Precondition(
            f"container {created.id[:13]} was started already",
            hint="create a new container and restore into that",
        )
    if created.spec.get("process", {}).get("terminal"):
        raise Unsupported("a container with a terminal cannot be restored into")
    if describe.has_user_namespace(created.spec):
        raise Unsupported(
            "a container whose pod has a user namespace of its own cannot be restored into",
            hint="run the pod without hostUsers: false",
        )
    if manifest.platform.architecture != platform.machine():
        raise Precondition(
            f"{archive} is from {manifest.platform.architecture}, this node is {platform.machine()}"
        )
    _features(manifest)
    _mounts(created, manifest, archive)
    _image_volumes(created, manifest, archive)


def node_namespaces(spec: dict[str, Any], pod: Sandbox) -> frozenset[str]:
    """Return the namespaces of the node that a container is given, by names of `rights.Rights`."""
    there = {item.get("type") for item in spec.get("linux", {}).get("namespaces") or []}
    options = pod.status.linux.namespaces.options
    given = {
        "network": pod.host_network,
        "uts": pod.host_network,  # the name of the node goes with its network
        "pid": options.pid == api_pb2.NODE,
        "ipc": options.ipc == api_pb2.NODE,
    }
    return frozenset(name for name, ours in given.items() if ours or name not in there)


def _features(manifest: Manifest) -> None:
    """Refuse a CPU that lacks vector or crypto features: programs have chosen code by them."""
    missing = set(manifest.platform.cpu_features) - set(describe.cpu_features())
    lacking = sorted(name for name in missing if name.startswith(_PORTABLE_FEATURES))
    if lacking:
        raise Precondition(
            f"this node's CPU lacks features of the source's: {', '.join(lacking)}",
            hint="restore on a node of the same or a newer CPU generation",
        )


def _mounts(created: Container, manifest: Manifest, archive: Path) -> None:
    there = {mount.destination for mount in describe.bind_mounts(created.spec)}
    missing = sorted(
        mount.destination
        for mount in manifest.bind_mounts
        if mount.destination not in there and not mount.destination.startswith(_RUNTIME_MOUNTS)
    )
    if missing:
        raise Precondition(
            f"the container lacks mounts that {archive} needs: {', '.join(missing)}",
            hint="give it the same volume mounts as the source had",
        )


def _image_volumes(created: Container, manifest: Manifest, archive: Path) -> None:
    """Refuse where what the source had in a volume would be nowhere, or be written over another's.

    A volume of the image is the container's own: an archive's fits into no volume of the pod, and
    what the pod had at that place is not what containerd has just put there from the image.
    """
    own = {volume.destination for volume in volumes.of_container(created.spec, created.id)}
    brought = set(manifest.image_volumes)
    if missing := sorted(brought - own):
        raise Precondition(
            f"{archive} holds volumes of the image that the container has not: "
            f"{', '.join(missing)}",
            hint="restore it with the same image, and without volumes of the pod at these places",
        )
    had = {posixpath.normpath(mount.destination) for mount in manifest.bind_mounts}
    if lacking := sorted((had & own) - brought):
        raise Precondition(
            f"{archive} does not hold what its container had at {', '.join(lacking)}, and the new "
            "one has nothing there but its image's own volume",
            hint="give it a volume of the pod there: the one that the source had; or, for a "
            "checkpoint of crishim 0.1, any, with the files that its program needs in it",
        )
