"""The directories of an overlay that is not mounted: a snapshot's, or one that hides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crishim.errors import Unsupported
from crishim.kernel.mounts import Overlay, overlay_from_options

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def overlay_of_snapshot(mounts: Sequence[tuple[str, str, Sequence[str]]]) -> Overlay:
    """Return the overlay that a snapshot's mounts (type, source, options) are going to make.

    Raises: Unsupported: the snapshotter makes something else.
    """
    if len(mounts) != 1 or mounts[0][0] != "overlay":
        raise Unsupported(
            "the container's snapshot is not an overlay",
            details=", ".join(kind for kind, _, _ in mounts),
            hint="use containerd's overlayfs snapshotter",
        )
    return overlay_from_options(mounts[0][2])


def plain_overlay(directory: Path) -> Overlay:
    """Return a directory as the upper one of an overlay that hides nothing."""
    return Overlay(
        upper=directory,
        work=directory,
        lower=(),
        user_xattr=False,
        metacopy=False,
        redirect_dir=False,
    )
