"""The pod's shared memory (/dev/shm) on its way into an archive.

Programs have files of it mapped, so it is copied in the pause, as their memory is. The member has
the form that Podman gave it. Its mount makes device nodes useless: they are left out, for no pod is
allowed to get them back.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from crishim.aio.lanes import Lane
from crishim.aio.shield import in_thread
from crishim.container.shm import MEMBER, PLACE, directory
from crishim.errors import Unsupported
from crishim.layer.capture import LayerCapture
from crishim.layer.overlay import plain_overlay

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Mapping
    from pathlib import Path

    from crishim.archive.writer import ArchiveWriter
    from crishim.dump.workspace import Workspace


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
