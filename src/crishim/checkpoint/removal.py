"""Remove a checkpoint from the store, unless a container or connections still wait for it."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from crishim.checkpoint import pending
from crishim.checkpoint.flow import in_thread
from crishim.errors import Busy, Corrupt, Precondition
from crishim.kernel import atomic

if TYPE_CHECKING:
    from pathlib import Path

    from crishim.checkpoint.held import Held
    from crishim.checkpoint.pins import Pins
    from crishim.checkpoint.store import Store
    from crishim.ids import CheckpointName
    from crishim.paths import Paths

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """Removes checkpoints; one object serves the daemon."""

    store: Store
    paths: Paths
    pins: Pins
    held: Held

    async def remove(self, name: CheckpointName, *, force: bool) -> None:
        """Remove one checkpoint, and the pin of its image if it was the last that needs it.

        Args: force: let go of the connections that wait for its restore.
        Raises: NotFound: there is none. Busy: a container's next start restores it. Precondition:
            connections wait for it, and there is no force.
        """
        archive = self.store.find(name)
        await in_thread(_refuse_wanted, archive, self.paths)
        if record := self.held.of_archive(archive):
            if not force:
                raise Precondition(
                    f"connections to {', '.join(record.waiting)} wait for the restore of {name}",
                    hint="restore it first, or let them go with --force",
                )
            await self.held.give_up(record.sandbox, f"{name} was removed")
        await in_thread(_unlink, archive)
        try:
            await self.pins.reconcile()
        except grpc.aio.AioRpcError as error:
            # The checkpoint is gone; the next start or removal looks at the pins again.
            _log.warning("cannot unpin images: %s", error.details())


def _refuse_wanted(archive: Path, paths: Paths) -> None:
    for directory in paths.restores.glob("*"):
        # A damaged plan restores nothing.
        with contextlib.suppress(Corrupt):
            plan = pending.read(directory)
            if plan is not None and plan.archive == str(archive):
                raise Busy(
                    f"container {directory.name[:13]} ({plan.container_name}) is to be restored "
                    f"from {archive.stem}",
                    hint="start or remove that container first",
                )


def _unlink(archive: Path) -> None:
    archive.unlink()
    atomic.fsync_dir(archive.parent)
