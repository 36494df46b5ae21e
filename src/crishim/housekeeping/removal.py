"""Remove a checkpoint from the store, unless somebody still needs it.

Connections may wait for an archive outside the store too: they are let go by its path, or by their
address.
"""

from __future__ import annotations

import ipaddress
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from crishim.aio import patience
from crishim.aio.shield import in_thread
from crishim.errors import InvalidRequest, Precondition, RuntimeRefused
from crishim.ids import checkpoint_name
from crishim.kernel import atomic
from crishim.sandbox.heldrecord import Waits

if TYPE_CHECKING:
    from collections.abc import Callable

    from crishim.housekeeping.needed import Needed
    from crishim.ids import CheckpointName
    from crishim.sandbox.held import HeldSandboxes
    from crishim.sandbox.heldrecord import HeldContainer, HeldRecord
    from crishim.store.pins import Pins
    from crishim.store.store import Store

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """Removes checkpoints; one object serves the daemon."""

    store: Store
    needed: Needed
    pins: Pins
    held: HeldSandboxes

    async def remove(self, named: str, *, force: bool) -> None:
        """Remove one checkpoint, and the pin of its image if it was the last that needs it.

        Args:
            named: its name; or the path of an archive elsewhere, or an address, for which
                connections wait: they are let go, and the archive stays, which is somebody else's.
            force: remove what is left of a stopped container, and let go of the connections that
                wait for its restore.
        Raises: NotFound: there is none. Busy: a container's next start restores it, or is being
            prepared to. Precondition: it is what is left of a stopped container, or connections
            wait, and there is no force; or a plan cannot be read, or a disk does not answer.
            InvalidRequest: it is nothing of these.
        """
        if (record := await self._elsewhere(named)) is not None:
            if not force:
                raise Precondition(
                    f"connections to {', '.join(record.waiting)} wait for "
                    f"{', '.join(item.archive for item in record.containers)}",
                    hint="restore it first, or let them go with --force; the archive stays",
                )
            await self.held.connections.give_up(record.sandbox, "somebody asked for it")
            return
        archive = await in_thread(self.store.find, self._name(named))
        await _needed(lambda: self.needed.refuse_planned(archive), named)
        stopped = await _needed(lambda: self.needed.stopped(archive), named)
        if stopped is not None and stopped[0].waits is not Waits.NO_MORE:
            if not force:
                raise _last_copy(*stopped, named)
            await self.held.connections.give_up(stopped[0].sandbox, f"{named} was removed")
        await in_thread(_unlink, archive)
        try:
            await self.pins.reconcile()
        except RuntimeRefused as error:
            # The checkpoint is gone; the next start or removal looks at the pins again.
            _log.warning("cannot unpin images: %s", error.details)

    def _name(self, named: str) -> CheckpointName:
        """Return the name of a checkpoint in the store; its path there will do too."""
        path = Path(named)
        if path.is_absolute() and not self.store.name_of(path):
            raise InvalidRequest(
                f"{named[:200]!r} is not a checkpoint name, and no connections wait for it",
                hint="see `crishim list`",
            )
        return checkpoint_name(self.store.name_of(path) or named)

    async def _elsewhere(self, named: str) -> HeldRecord | None:
        """Return whose connections wait for an archive outside the store, or for an address."""
        path = Path(named)
        if path.is_absolute():
            return None if self.store.name_of(path) else self.held.records.of_archive(path)
        try:
            address = str(ipaddress.ip_address(named))
        except ValueError:
            return None
        if await in_thread(self.store.has, named):
            return None
        return self.held.records.of_addresses([address])


async def _needed(look: Callable[[], _T], named: str) -> _T:
    """Return who needs a checkpoint; archives that are named may be on a disk that is dead."""
    try:
        return await patience.look(look)
    except TimeoutError as error:
        raise Precondition(
            f"nobody knows whether {named} is still needed: the disk of an archive that a stopped "
            "container or a waiting restore needs does not answer",
            hint="try again once it does",
        ) from error


def _last_copy(record: HeldRecord, container: HeldContainer, named: str) -> Precondition:
    if record.waiting:
        return Precondition(
            f"connections to {', '.join(record.waiting)} wait for the restore of {named}",
            hint="restore it first, or let them go with --force",
        )
    return Precondition(
        f"{named} is what is left of container {container.id[:13]}, which was stopped by a "
        "checkpoint",
        hint="remove its pod first, or the checkpoint all the same with --force",
    )


def _unlink(archive: Path) -> None:
    archive.unlink()
    atomic.fsync_dir(archive.parent)
