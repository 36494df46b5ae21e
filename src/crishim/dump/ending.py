"""The point of no return of a dump with `stop`, and the way forward from it.

    publish   the archive gets its name; from here on the source never goes on
              a restore that waits for it is told in the same piece
              the archive is durable under its name
    end       that restore has come to its end; the frozen processes are ended

Nothing here may be broken off: a cancellation between the name and its announcement would leave a
dump and a restore that wait for each other. The source is ended on positive evidence only: the
archive is there, and it is durable or its process lives on elsewhere. Where nobody can tell, the
source stays frozen behind its hold, and the error says so.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crishim.aio.lanes import Lane
from crishim.aio.shield import in_thread
from crishim.container import dumpnotes
from crishim.errors import CrishimError, Precondition

if TYPE_CHECKING:
    from pathlib import Path

    from crishim.archive.writer import ArchiveWriter
    from crishim.dump.rollback import Rollback
    from crishim.dump.workspace import Workspace
    from crishim.flow.handover import Handover
    from crishim.flow.phases import Phases
    from crishim.ids import ContainerId
    from crishim.sandbox.held import HeldSandboxes
    from crishim.sandbox.heldrecord import HeldRecord

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How one source ends; `run` it by `shield.to_the_end`, once its archive is complete.

    Attributes:
        container: the source.
        record: on disk since before the pause; its sandbox's.
        handover: the restore that waits for the archive; None if none does.
        images: where that restore finds the page images as files; None if nowhere.
        rollback: the source's way back, which ends here.
    """

    held: HeldSandboxes
    writer: ArchiveWriter
    workspace: Workspace
    container: ContainerId
    record: HeldRecord
    handover: Handover | None
    images: Path | None
    rollback: Rollback

    async def run(self, phases: Phases) -> int:
        """Go forward; return the size of the archive in bytes.

        Raises: AlreadyExists, NoSpace, NotFound, Precondition: the archive has not appeared, and
            the source may go on; once committed it stays frozen, or has ended all the same.
        """
        doubt: CrishimError | None = None
        size = 0
        with phases.step("publish", deadline=False):
            await self._publish()
            if self.handover is not None:
                self.handover.archive_appeared(self._archive, self.images)
            try:
                size = await in_thread(self._make_durable, lane=Lane.PAUSE)
            except CrishimError as error:
                doubt = error
        with phases.step("end", deadline=False):
            restored = self.handover is not None and await self.handover.wait_over()
            if doubt is not None and not restored:
                await self._stay_frozen(doubt)
            # What a kubelet manages it would start again; it ends when the kubelet stops it.
            if not self.record.of(self.container).kubelet:
                await self.held.end(self.container)
        if doubt is not None:
            raise doubt
        return size

    @property
    def _archive(self) -> Path:
        return self.writer.target

    async def _publish(self) -> None:
        try:
            await in_thread(self._appear, lane=Lane.PAUSE)
        except (CrishimError, OSError) as error:
            appeared = await in_thread(self.writer.appeared, lane=Lane.PAUSE)
            if appeared is False:
                raise
            self._commit()
            if appeared is None:
                await self._stay_unknown(error)
            _log.warning("%s has its name although it was refused: %s", self._archive, error)
        self._commit()

    def _appear(self) -> None:
        self.workspace.note_publishing()
        self.writer.publish()

    def _make_durable(self) -> int:
        try:
            return self.writer.make_durable()
        except CrishimError:
            dumpnotes.note_doubt(self.workspace.path)
            raise

    def _commit(self) -> None:
        self.rollback.committed = True
        self.held.committed(self.record, self.container)

    async def _stay_unknown(self, error: Exception) -> None:
        if self.handover is not None:
            # It was not made durable yet.
            await self.held.doubt(self.record.sandbox, self.container)
        raise Precondition(
            f"container {self.container[:13]} stays frozen: nobody can tell whether "
            f"{self._archive} is there",
            details=str(error),
            hint="if it is, restore it; stopping the container ends it for good",
        ) from error

    async def _stay_frozen(self, doubt: CrishimError) -> None:
        try:
            await self.held.doubt(self.record.sandbox, self.container)
        except OSError as error:  # this daemon knows it all the same, and tries again
            self.workspace.left = True
            _log.error("cannot note that %s is not durable: %s", self._archive, error)
        raise Precondition(
            f"container {self.container[:13]} stays frozen: {self._archive} is there and "
            "could not be made durable",
            details=str(doubt),
            hint="restore it before the node is restarted; stopping the container ends it for good",
        ) from doubt
