"""All files that are a container's own, on their way into an archive: its layer, image volumes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crishim.container.volumes import members, of_container
from crishim.dump.layer import LayerDump
from crishim.layer.known import FILES_MAX
from crishim.layer.overlay import plain_overlay
from crishim.oci import devices

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from crishim.archive.writer import ArchiveWriter
    from crishim.container.resolve import Source
    from crishim.dump.workspace import Workspace


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
