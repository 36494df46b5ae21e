"""The way back of a source that is being dumped: to where it was before, or no longer anywhere.

What undoes a step is registered before the step; whether the source is still to go on, and whether
it is frozen, turns out later. So the steps of the undo that concern the source itself are methods
of one object, and ask it when they run. This module knows no order of steps.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from crishim.aio.lanes import Lane
from crishim.aio.shield import in_thread

if TYPE_CHECKING:
    from crishim.archive.writer import ArchiveWriter
    from crishim.container.resolve import Source
    from crishim.dump.connections import SourceConnections
    from crishim.dump.freezer import Freezer
    from crishim.dump.guardian import Guardian
    from crishim.dump.workspace import Workspace
    from crishim.sandbox.held import HeldSandboxes
    from crishim.sandbox.heldrecord import HeldRecord

_log = logging.getLogger(__name__)


class Rollback:
    """The way back of one source; its methods may be called in any order, and again.

    Args: ends: the dump is to end it, with a record that says so.
    Attributes:
        committed: the source will not go on any more, or may not: nothing thaws it, lifts its hold
            or forgets its record.
    """

    def __init__(
        self,
        source: Source,
        *,
        ends: bool,
        held: HeldSandboxes,
        workspace: Workspace,
        freezer: Freezer,
        connections: SourceConnections,
    ) -> None:
        self._source = source
        self._ends = ends
        self._held = held
        self._workspace = workspace
        self._freezer = freezer
        self._connections = connections
        self._announced: tuple[HeldRecord, ArchiveWriter] | None = None
        self.committed = False

    @property
    def goes_on(self) -> bool:
        """Whether the source runs, and will: nobody is to find a record of it then."""
        return not self.committed and not self._freezer.frozen

    def announced(self, record: HeldRecord, writer: ArchiveWriter) -> None:
        """Take note of the record of a source that is to end, and of the archive it names."""
        self._announced = record, writer

    async def thaw(self) -> None:
        """Let the processes go on."""
        if not self.committed:
            await self._freezer.thaw()

    async def release(self) -> None:
        """Let the connections go."""
        if not self.committed:
            await self._connections.release()

    async def forget(self) -> None:
        """Forget the record; of what may be frozen it stays, and tells whoever finds it so."""
        if self._ends and self.goes_on:
            self._held.forget(self._source.sandbox.id)

    async def forget_for_good(self) -> None:
        """Make it durable that there is no record; by now nobody waits for the disk."""
        if self._ends and self.goes_on:
            await self._held.records.forgotten_for_good()

    async def dismiss(self, guardian: Guardian) -> None:
        """Let the guardian go; where we could not thaw the container, let it try."""
        if self.committed or self.goes_on:
            await guardian.discharge()
            return
        try:
            await guardian.act()
        finally:
            if await self._freezer.stays_frozen():
                await self._leave_frozen()
            else:
                await self.forget()

    async def _leave_frozen(self) -> None:
        """Keep the notes and the record of a container that could not be thawed.

        Recovery tries again, this daemon's and the next one's. Of one that was to be stopped it has
        to know that the archive certainly has not appeared.
        """
        _log.error(
            "container %s stays frozen: neither its checkpoint nor the guardian could thaw it; "
            "this is tried again",
            self._source.container.id[:13],
        )
        self._workspace.left = True
        if self._announced is not None:
            record, writer = self._announced
            self._held.stays_frozen(record)
            if await in_thread(writer.appeared, lane=Lane.PAUSE) is False:
                await in_thread(self._workspace.note_half, lane=Lane.PAUSE)
