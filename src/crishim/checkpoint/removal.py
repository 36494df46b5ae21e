"""Remove a checkpoint from the store, unless a container still waits for it."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

import grpc

from crishim.checkpoint import pending
from crishim.checkpoint.flow import in_thread
from crishim.errors import Busy, Corrupt
from crishim.kernel import atomic

if TYPE_CHECKING:
    from pathlib import Path

    from crishim.checkpoint.pins import Pins
    from crishim.checkpoint.store import Store
    from crishim.ids import CheckpointName
    from crishim.paths import Paths

_log = logging.getLogger(__name__)


async def remove(name: CheckpointName, *, store: Store, paths: Paths, pins: Pins) -> None:
    """Remove one checkpoint, and the pin of its image if it was the last that needs it.

    Raises: NotFound: there is none. Busy: a container's next start restores it.
    """
    await in_thread(_remove, store.find(name), paths)
    try:
        await pins.reconcile()
    except grpc.aio.AioRpcError as error:
        # The checkpoint is gone; the next start or removal looks at the pins again.
        _log.warning("cannot unpin images: %s", error.details())


def _remove(archive: Path, paths: Paths) -> None:
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
    archive.unlink()
    atomic.fsync_dir(archive.parent)
