"""Put in order what an earlier daemon left in the middle of something. Runs once, at start.

The records on disk say what was meant: see `held`, `pending`, `body` and `sandboxes`. What needs
containerd waits for it; the socket serves meanwhile, and calls behave as without us until then.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crishim.checkpoint import body, pending, workspace, wrappers
from crishim.checkpoint.archive import sweep_partials
from crishim.checkpoint.flow import in_thread
from crishim.checkpoint.heldrecord import is_committed
from crishim.checkpoint.settle import clear_mounts, settled
from crishim.checkpoint.store import KUBELET_DIRECTORY
from crishim.ids import ContainerId
from crishim.kernel import atomic, tree

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator
    from pathlib import Path

    from crishim.checkpoint.held import Held
    from crishim.checkpoint.pins import Pins
    from crishim.checkpoint.restore import Restorer
    from crishim.checkpoint.sandboxes import Sandboxes
    from crishim.containerd.cri import Cri
    from crishim.containerd.records import Records
    from crishim.ids import SandboxId
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
    connections_wait_s: float

    def load(self) -> None:
        """Read the records on disk and clear half files away; before anybody can call."""
        self.sandboxes.load()
        self.held.load()
        self._files()

    async def run(self) -> None:
        """Finish or undo what was begun; needs containerd.

        Each piece is on its own: one that fails is logged and left for the next start.
        """
        for directory in sorted(self.paths.restores.glob("*")):
            await self._attempt(self._restore(directory), f"restore of {directory.name[:13]}")
        for sandbox in self.held.sandboxes():
            await self._attempt(self.held.recover(sandbox), f"stopped container of {sandbox[:13]}")
        for sandbox in self.sandboxes.sandboxes():
            waiting = await in_thread(self._waits_in, sandbox)
            await self._attempt(
                self.sandboxes.recover(sandbox, waiting=waiting), f"address of {sandbox[:13]}"
            )
        await self._attempt(self.pins.reconcile(), "pinned images")
        await self._attempt(self._wrappers(), "wrappers of restored containers")
        await self.tend()

    async def tend(self) -> None:
        """Clear up after containers and pods that went without us; now and then, and at start."""
        await self._attempt(self.restorer.sweep(), "containers that are gone")
        await self._attempt(self.sandboxes.sweep(), "addresses of pods that are gone")
        await self._attempt(self._held(), "connections that wait")
        await self._attempt(clear_mounts(), "mounts of a CRIU that is gone")

    async def _held(self) -> None:
        live = [item.id for item in await self.cri.sandboxes()]
        await self.held.sweep(live, wait_s=self.connections_wait_s)

    async def _wrappers(self) -> None:
        await wrappers.put_back(cri=self.cri, records=self.records)

    def _files(self) -> None:
        """Thaw what a dump has left frozen and remove its files, unless its guardian is at it."""
        for records in self._record_directories():
            atomic.sweep_unfinished(records)
        directories = {self.paths.store, KUBELET_DIRECTORY}
        for work in self.paths.dumps.glob("*"):
            lock = atomic.try_lock(work / "lock")
            if lock is None:
                continue
            try:
                record = self.held.of_container(work.name)
                if record is None or not is_committed(record):
                    workspace.thaw_abandoned(work)
                if (directory := workspace.archive_directory(work)) is not None:
                    directories.add(directory)
                tree.remove_tree(work)
            finally:
                os.close(lock)
        for directory in directories:
            if directory.is_dir():
                for name in sweep_partials(directory):
                    _log.warning("removed the unfinished checkpoint %s", name)

    def _record_directories(self) -> Iterator[Path]:
        yield self.paths.held
        yield self.paths.sandboxes
        yield from self.paths.restores.glob("*")
        yield from self.paths.restored.glob("*")

    async def _restore(self, directory: Path) -> None:
        await body.recover(directory, records=self.records)
        await settled(directory)
        container = ContainerId(directory.name)
        waits = await in_thread(pending.read, directory) is not None
        if waits and (await self.cri.container(container)).running:
            # It was restored, and the daemon died before it could say so.
            await self.restorer.reviver.finish(container)

    def _waits_in(self, sandbox: SandboxId) -> bool:
        plans = (pending.read(directory) for directory in self.paths.restores.glob("*"))
        return any(plan is not None and plan.sandbox == sandbox for plan in plans)

    async def _attempt(self, work: Awaitable[None], what: str) -> None:
        try:
            await work
        except Exception:  # noqa: BLE001 - one piece must not cost the others
            _log.exception("recovery: %s", what)
