"""The pod's shared memory (/dev/shm) on its way into an archive and out of it again.

It is a directory of the pod that containers have mounted: in no layer, and shared by all of them.
Programs have files of it mapped, so it is copied in the pause, as their memory is. The member has
the name and the form that Podman gave it. Its mount makes device nodes useless: they are left out,
for no pod is allowed to get them back. Restoring it, other containers of the pod may be at work in
it, and hostile: see `apply`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crishim.aio.lanes import Lane
from crishim.aio.shield import in_thread
from crishim.errors import Unsupported
from crishim.layer.apply import apply_members, plain_overlay
from crishim.layer.capture import LayerCapture

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Mapping

    from crishim.archive.reader import ArchiveReader
    from crishim.archive.writer import ArchiveWriter
    from crishim.dump.workspace import Workspace

MEMBER = "devshm-checkpoint.tar"
_LINK = re.compile(r"link_remap\.\d+")
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


class SharedMemoryDump:
    """The shared memory of one container's pod.

    Args: spec: the container's OCI runtime spec.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self._directory = directory(spec)
        self._fd = -1
        self._end: int | None = None
        self._capture: LayerCapture

    async def copy(self, workspace: Workspace, undo: contextlib.AsyncExitStack) -> None:
        """Copy what there is; the container is frozen.

        Args: undo: closes the file that waits for `add`.
        """
        if self._directory is None or not await in_thread(
            os.listdir, self._directory, lane=Lane.PAUSE
        ):
            return
        self._capture = LayerCapture(plain_overlay(self._directory), devices=False)
        self._fd = await workspace.unnamed_file(undo)
        self._end = await in_thread(
            self._capture.last_pass, self._fd, 0, cancel=self._capture.cancel, lane=Lane.PAUSE
        )

    async def add_links(self, links: Mapping[Path, Mapping[str, int]]) -> None:
        """Add further names of files; see `LayerDump.add_links`."""
        own = links.get(self._directory, {}) if self._directory is not None else {}
        if own and self._fd < 0:
            raise Unsupported(f"an open file in {PLACE} has no name there")
        if own:
            self._end = await in_thread(
                self._capture.add_links, self._fd, self._end, own, lane=Lane.PAUSE
            )

    def add(self, writer: ArchiveWriter) -> None:
        """Put the copy into the archive; blocks."""
        if self._fd >= 0:
            writer.add_file(MEMBER, self._fd)


def apply(archive: ArchiveReader, spec: dict[str, Any], *, shared: bool) -> None:
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
