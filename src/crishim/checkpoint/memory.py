"""CRIU writes a frozen container's memory into an archive; layer and log end beside it.

What is done here is done in the pause: everything that does not need frozen processes, or that can
wait until they run again, is elsewhere.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crishim.checkpoint import logs, remaps
from crishim.checkpoint.fifo import FifoReceiver
from crishim.checkpoint.flow import in_thread
from crishim.checkpoint.lanes import Lane
from crishim.tools import runc as runcs

if TYPE_CHECKING:
    import contextlib

    from crishim.checkpoint.archive import ArchiveWriter
    from crishim.checkpoint.gather import Gatherer
    from crishim.checkpoint.resolve import Source
    from crishim.checkpoint.shm import SharedMemoryDump
    from crishim.checkpoint.trail import Trail
    from crishim.checkpoint.volumes import OwnFilesDump
    from crishim.checkpoint.workspace import Workspace

_SPARE_FIFOS = 8
"""CRIU writes one page image per process and per piece of shared memory; with too few FIFOs the
rest become ordinary files, which costs a copy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryDump:
    """What the memory step of one dump works with.

    Attributes:
        pids: all processes of the container, frozen.
        trail: follows what arrives in the archive; None if nobody waits for it.
        shared: the pod's shared memory.
        gatherer: looks for what CRIU drops.
        remaps: open files need links that CRIU makes for its dump only; see `remaps.expect`.
    """

    source: Source
    workspace: Workspace
    writer: ArchiveWriter
    layer: OwnFilesDump
    shared: SharedMemoryDump
    pids: list[int]
    tcp: str
    trail: Trail | None
    remaps: bool
    gatherer: Gatherer

    async def run(self, facts: runcs.RuncFacts, undo: contextlib.AsyncExitStack) -> tuple[int, int]:
        """Write everything that must belong to the same moment.

        Returns: bytes of memory written, bytes of the container's log.
        Raises: ToolFailed: CRIU's last errors. NoSpace, Unsupported, Precondition.
        On cancel: CRIU is waited for.
        """
        aside = asyncio.gather(
            self._log_bytes(), self._layer(undo), self.gatherer.in_pause(self.pids)
        )
        try:
            image_bytes = await self._criu(facts)
            log_bytes, _, _ = await aside
            if self.remaps:
                links = await in_thread(remaps.listed, self.workspace, lane=Lane.PAUSE)
                await self.layer.add_links(links)
                await self.shared.add_links(links)
        except BaseException:
            self.layer.cancel()
            await asyncio.gather(aside, return_exceptions=True)
            raise
        return image_bytes, log_bytes

    async def _criu(self, facts: runcs.RuncFacts) -> int:
        options = runcs.CheckpointOptions(
            images=self.workspace.images,
            work=self.workspace.path,
            criu_config=self.workspace.criu_config,
            kept_logs=self.workspace.kept_logs,
            leave_running=True,
            cgroups_mode=facts.cgroups_mode,
            tcp_established=self.tcp == "established",
            link_remap=facts.link_remap,
        )
        count = len(self.pids) + _SPARE_FIFOS
        with FifoReceiver(self.writer, options.images, count=count, trail=self.trail) as fifos:
            await runcs.checkpoint(self.source.runc, self.source.container.id, options)
            return await fifos.finish()

    async def _layer(self, undo: contextlib.AsyncExitStack) -> None:
        await self.shared.copy(self.workspace, undo)
        await self.layer.last_pass(self.workspace, undo)
        if not self.remaps:
            await in_thread(remaps.late, self.pids, lane=Lane.PAUSE)

    async def _log_bytes(self) -> int:
        if self.source.log is None:
            return 0
        return await logs.settled_size(self.source.log, pid=self.source.container.pid)
