"""What dumps of a daemon that is gone have left: frozen containers, files, half archives.

Each dump is looked at on its own, and only evidence counts: a container is thawed if no checkpoint
was to stop it, or if its archive is certainly no more than a half one. What nobody knows enough
about keeps its files, and is looked at again later. None of it needs containerd, but for a
container whose record is damaged.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crishim.aio import patience
from crishim.aio.lanes import Lane
from crishim.aio.shield import in_thread
from crishim.archive.writer import sweep_partials
from crishim.container import dumpnotes
from crishim.dump import guardian
from crishim.errors import Unavailable
from crishim.kernel import atomic, tree
from crishim.tools.stillatwork import StillAtWork, tools_ended

if TYPE_CHECKING:
    from crishim.containerd.cri import Cri
    from crishim.paths import Paths
    from crishim.sandbox.held import HeldSandboxes

_log = logging.getLogger(__name__)
_POLL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Abandoned:
    """The dumps that somebody left in the middle."""

    paths: Paths
    cri: Cri
    held: HeldSandboxes

    def directories(self) -> list[Path]:
        """Return the work directories of dumps, abandoned or not.

        Raises: OSError: nobody knows which there are.
        """
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return [path for path in sorted(self.paths.dumps.iterdir()) if path.is_dir()]
        return []

    async def put_in_order(self, work: Path, *, wait_s: float) -> None:
        """Thaw what a dump has frozen, if that is right, and remove its files.

        Args: wait_s: how long its guardian, which does the same, and a CRIU are waited for.
        Raises: StillAtWork: one of them is still, or a dump of ours; nothing is done.
        """
        until = time.monotonic() + wait_s
        if not await in_thread(os.path.lexists, work):
            # A CRIU may have been at work when it went: the container is left alone until its end.
            await tools_ended(work, wait_s=wait_s)
            return
        while (lock := await in_thread(atomic.try_lock, work / "lock")) is None:
            if time.monotonic() >= until:
                raise StillAtWork(f"somebody works in {work}")
            await asyncio.sleep(_POLL_S)
        try:
            # Thawed before its end, or with its FIFOs removed, it leaves its parasite behind.
            await tools_ended(
                work,
                wait_s=until - time.monotonic(),
                meanwhile=lambda: guardian.unblock(work),
            )
            if not await self._is_known(work.name):
                return
            if self.held.records.of_container(work.name) is None:
                await in_thread(dumpnotes.thaw_abandoned, work, lane=Lane.PAUSE)
            directory = await in_thread(dumpnotes.archive_directory, work)
            if directory is None or await self.sweep_partials(directory):
                await in_thread(tree.remove_tree, work, lane=Lane.BULK)
        finally:
            os.close(lock)

    async def _is_known(self, container: str) -> bool:
        """Return whether it is known by now if a container that was dumped is to go on.

        Raises: Unavailable: the records of stopped containers cannot be read, so it may be one.
        """
        if not self.held.records.loaded:
            raise Unavailable("the records of stopped containers cannot be read")
        stopped = self.held.records.of_container(container)
        if stopped is not None:
            await self.held.decide(stopped[0].sandbox)
        elif self.held.records.unreadable:
            return (await self.cri.container(container)).sandbox not in self.held.records.unreadable
        return not self.held.records.is_undecided(container)

    async def partials(self) -> None:
        """Remove half archives where most archives are."""
        for directory in (self.paths.store, self.paths.kubelet_checkpoints):
            await self.sweep_partials(directory)

    async def sweep_partials(self, directory: Path) -> bool:
        """Remove half archives of dead writers; return whether there are none left.

        One may be the only evidence of what became of a container: then all stay.
        """
        if not self.held.records.loaded:
            return False
        undecided = (item for record in self.held.records.all() for item in record.undecided)
        if any(Path(item.archive).parent == directory for item in undecided):
            return False

        def sweep() -> list[str]:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                return sweep_partials(directory)
            return []

        # Its disk may be one that never answers. What is left behind then does no harm later:
        # it removes nothing that somebody writes.
        for name in await patience.look(sweep):
            _log.warning("removed the unfinished checkpoint %s", name)
        return True
