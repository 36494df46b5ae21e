"""The writable layer of a container on its way into an archive, pass by pass.

What the first two passes find goes straight into the archive. The last runs beside CRIU, which
fills the archive meanwhile, so its findings wait in an unnamed file. The passes
themselves are in `layer.capture`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crishim.aio.lanes import Lane
from crishim.aio.shield import in_thread
from crishim.kernel import procs
from crishim.layer.capture import LayerCapture
from crishim.layer.known import FILES_MAX
from crishim.layer.members import MEMBERS

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from crishim.archive.writer import ArchiveWriter
    from crishim.dump.workspace import Workspace
    from crishim.kernel.mounts import Overlay


class LayerDump:
    """The layer of one container, or another directory that is its own.

    Args:
        writer: nobody else may have an open member while a pass writes into it.
        pids: finds the processes of the container.
        device_allowed: see `LayerCapture`.
        members: where the archive keeps what each pass has found.
        place: where the container has it; "" for its root.
        files_max: with more entries it is refused.
    """

    def __init__(
        self,
        overlay: Overlay,
        writer: ArchiveWriter,
        *,
        pids: Callable[[], Collection[int]],
        device_allowed: Callable[[bool, int, int], bool],
        members: tuple[str, str, str] = MEMBERS,
        place: str = "",
        files_max: int = FILES_MAX,
    ) -> None:
        self._overlay = overlay
        self._members = members

        def mapped() -> list[procs.SharedMapping]:
            found = procs.shared_mappings(pids())
            return [
                procs.SharedMapping(mapping.inode, mapping.path.removeprefix(place))
                for mapping in found
                if mapping.path.startswith(f"{place}/")
            ]

        self._capture = LayerCapture(
            overlay, mapped=mapped, device_allowed=device_allowed, files_max=files_max
        )
        self._writer = writer
        self._changes = -1
        self._changes_end: int | None = None
        self.layer_bytes = 0

    @property
    def copied_bytes(self) -> int:
        """How much the pass that goes on has copied so far."""
        return self._capture.copied_bytes

    async def first_pass(self) -> None:
        """Copy everything; the processes run."""

        def copy() -> None:
            begin = self._writer.begin_member(self._members[0])
            end = self._capture.first_pass(self._writer.fd, begin)
            self._writer.end_member(end)
            self.layer_bytes += end - begin

        await in_thread(copy, cancel=self._capture.cancel, lane=Lane.BULK)

    async def catch_up(self) -> None:
        """Copy what has changed since; the processes run."""

        def copy() -> None:
            begin = self._writer.begin_member(self._members[1])
            end = self._capture.catch_up(self._writer.fd, begin)
            if end is None:
                self._writer.drop_member()
            else:
                self._writer.end_member(end)
                self.layer_bytes += end - begin

        await in_thread(copy, cancel=self._capture.cancel, lane=Lane.BULK)

    async def last_pass(self, workspace: Workspace, undo: contextlib.AsyncExitStack) -> None:
        """Copy what has changed since; the processes are frozen.

        Args: undo: closes the file that waits for `add`.
        """
        self._changes = await workspace.unnamed_file(undo)

        def copy() -> None:
            self._changes_end = self._capture.last_pass(self._changes, 0)

        await in_thread(copy, cancel=self._capture.cancel, lane=Lane.PAUSE)

    async def add_links(self, links: Mapping[Path, Mapping[str, int]]) -> None:
        """Add further names of files, see `remaps.listed`; the processes are still frozen.

        Raises: Unsupported: a file has no other name in the layer.
        """

        def add() -> None:
            own = links.get(self._overlay.upper, {})
            self._changes_end = self._capture.add_links(self._changes, self._changes_end, own)

        await in_thread(add, lane=Lane.PAUSE)

    def cancel(self) -> None:
        """Make a running pass end soon with an error."""
        self._capture.cancel()

    def add(self) -> None:
        """Put into the archive what the last pass has found; blocks."""
        if self._changes_end is not None:
            self.layer_bytes += self._writer.add_file(self._members[2], self._changes)
