"""Put in order what an earlier daemon left in the middle of something. Runs once, at start.

The records on disk say what was meant: see `held`, `pending`, `body` and `sandboxes`. What needs
containerd waits for it; the socket serves meanwhile, and calls behave as without us until then.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from crishim.checkpoint import body, pending
from crishim.checkpoint.archive import sweep_partials
from crishim.checkpoint.flow import in_thread
from crishim.checkpoint.images import remove_images
from crishim.errors import CrishimError
from crishim.ids import ContainerId
from crishim.kernel import tree

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from pathlib import Path

    from crishim.checkpoint.held import Held
    from crishim.checkpoint.pins import Pins
    from crishim.checkpoint.restore import Restorer
    from crishim.checkpoint.sandboxes import Sandboxes
    from crishim.containerd.cri import Cri
    from crishim.containerd.records import Records
    from crishim.paths import Paths

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """The clean-up after a crash or a restart."""

    paths: Paths
    cri: Cri
    records: Records
    held: Held
    sandboxes: Sandboxes
    restorer: Restorer
    pins: Pins

    def load(self) -> None:
        """Read the records on disk; needs nobody."""
        self.sandboxes.load()
        self.held.load()

    async def run(self) -> None:
        """Finish or undo what was begun; needs containerd.

        Each piece is on its own: one that fails is logged and left for the next start.
        """
        await in_thread(self._files)
        for directory in sorted(self.paths.restores.glob("*")):
            await self._attempt(self._restore(directory), f"restore of {directory.name[:13]}")
        for sandbox in self.held.sandboxes():
            await self._attempt(self.held.recover(sandbox), f"stopped container of {sandbox[:13]}")
        await self._attempt(self.restorer.sweep(), "sweep")
        await self._attempt(self.pins.reconcile(), "pinned images")

    def _files(self) -> None:
        """Remove the working files of dumps: their guardians have thawed what was frozen."""
        tree.remove_tree(self.paths.dumps)
        if self.paths.store.is_dir():
            for name in sweep_partials(self.paths.store):
                _log.warning("removed the unfinished checkpoint %s", name)

    async def _restore(self, directory: Path) -> None:
        await body.recover(directory, records=self.records)
        plan = pending.read(directory)
        container = ContainerId(directory.name)
        if plan is not None and (await self.cri.container(container)).running:
            # It was restored, and the daemon died before it could say so.
            pending.finish(directory)
            await in_thread(remove_images, directory / "images")

    async def _attempt(self, work: Awaitable[None], what: str) -> None:
        try:
            await work
        except (CrishimError, grpc.aio.AioRpcError, OSError) as error:
            _log.error("recovery of the %s failed: %s", what, error)
