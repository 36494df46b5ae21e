"""Images on the nodes: those that a user makes from a directory, and the stand-ins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lab.errors import LabError
from lab.host.remove import remove_tree
from lab.node.enter import check_node
from lab.node.nodes import known_nodes
from lab.parts.oci import Image, normalized_reference, write_archive, write_layer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lab.settings import Settings

_IMPORT = ["ctr", "-n", "k8s.io", "image", "import", "--no-unpack", "-"]


def import_archive(settings: Settings, node: str, archive: Path) -> None:
    """Import every image of an OCI archive on one node.

    Snapshots are made when a container first needs them, as after a pull without unpacking.
    """
    with archive.open("rb") as stream:
        check_node(settings, node, _IMPORT, stdin=stream)


def _offer_in_registry(settings: Settings, node: str, archive: Path, name: str) -> None:
    """Unpack the image where the node's registry finds it, so that it can be pulled again."""
    target = f"/var/lib/lab-oci/{name}"
    check_node(settings, node, ["mkdir", "-p", target])
    with archive.open("rb") as stream:
        check_node(settings, node, ["tar", "-x", "-C", target], stdin=stream)


def make_image(
    settings: Settings,
    name: str,
    directory: Path,
    *,
    command: Sequence[str],
    user: str = "",
    volumes: Sequence[str] = (),
) -> str:
    """Make an image of a directory, import it on all nodes, return its full reference.

    Raises: LabError: no such directory, no node, or an import failed.
    """
    if not directory.is_dir():
        raise LabError(f"{directory}: not a directory")
    nodes = known_nodes(settings)
    if not nodes:
        raise LabError(f"lab {settings.name!r} is not up: scripts/lab up")
    reference = normalized_reference(name)
    work = settings.state / "images" / reference.replace("/", "_")
    remove_tree(work)
    work.mkdir(parents=True)
    try:
        layer = write_layer(directory, work / "layer.tar")
        image = Image(
            reference=reference,
            layers=(layer,),
            command=tuple(command),
            user=user,
            volumes=tuple(volumes),
        )
        with (work / "image.tar").open("wb") as target:
            write_archive([image], target)
        for node in nodes:
            import_archive(settings, node, work / "image.tar")
            _offer_in_registry(settings, node, work / "image.tar", work.name)
            wait = ["crictl", "-r", "unix:///run/containerd/containerd.sock", "inspecti", "-q"]
            check_node(settings, node, [*wait, reference])
    finally:
        remove_tree(work)
    return reference
