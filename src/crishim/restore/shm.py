"""Write an archive's shared memory into the pod of a new container.

Other containers of the pod may be at work in it, and hostile.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from crishim.container.shm import MEMBER, directory
from crishim.layer.apply import apply_members
from crishim.layer.overlay import plain_overlay

if TYPE_CHECKING:
    from crishim.archive.reader import ArchiveReader

_LINK = re.compile(r"link_remap\.\d+")


def apply_shared_memory(archive: ArchiveReader, spec: dict[str, Any], *, shared: bool) -> None:
    """Write an archive's shared memory into the pod of a container that does not run yet; blocks.

    Args: shared: other containers of the pod run: what is there is theirs and stays, but for links
        that a failed restore has left (`remaps`): CRIU would take another file for its own.
    Raises: as `apply_members`.
    """

    def stays(name: str) -> bool:
        return shared and not _LINK.fullmatch(name)

    if (target := directory(spec)) is not None:
        apply_members(
            archive,
            plain_overlay(target),
            (MEMBER,),
            device_allowed=lambda *_: False,
            keep=stays,
        )
