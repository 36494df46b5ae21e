"""CRIU writes a frozen container's memory into an archive; layer and log end beside it.

What is done here is done in the pause: everything that does not need frozen processes, or that can
wait until they run again, is elsewhere.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crishim.aio.lanes import Lane
from crishim.aio.shield import in_thread
from crishim.container import logs
from crishim.dump import remaps
from crishim.dump.fifo import FifoReceiver
from crishim.tools import runc as runcs

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Coroutine

    from crishim.archive.writer import ArchiveWriter
    from crishim.container.resolve import Source
    from crishim.dump.gather import Gatherer
    from crishim.dump.ownfiles import OwnFilesDump
    from crishim.dump.shm import SharedMemoryDump
    from crishim.dump.trail import Trail
    from crishim.dump.workspace import Workspace
    from crishim.flow.phases import Phases

_SPARE_FIFOS = 8
_FIFOS_MAX = 256
"""CRIU writes one page image per process and per piece of shared memory; with too few FIFOs the
rest become ordinary files, which costs a copy. Each takes a descriptor of the daemon's, which other
dumps and restores need too."""


@dataclass(slots=True, kw_only=True)
class Written:
    """What the memory step has left for the rest of the archive.

    Attributes:
        image_bytes: of CRIU's images, so far.
        log: None where the container has no log.
    """

    frozen_at_ns: int
    image_bytes: int
    log: logs.Logged | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryDump:
    """What the memory step of one dump works with.

    Attributes:
        pids: all processes of the container, frozen.
        trail: follows what arrives in the archive; None if nobody waits for it.
        shared: the pod's shared memory.
        gatherer: looks for what CRIU drops.
        expected_bytes: about what the memory will take.
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
    phases: Phases
    expected_bytes: int

    async def run(
        self,
        facts: runcs.RuncFacts,
        undo: contextlib.AsyncExitStack,
        *,
        beside: Coroutine[Any, Any, None] | None = None,
    ) -> tuple[int, logs.Logged | None]:
        """Write everything that must belong to the same moment.

        Args: beside: runs at the same time; its error is this call's.
        Returns: bytes of memory written; the container's log.
        Raises: ToolFailed: CRIU's last errors. NoSpace, Unsupported, Precondition.
        On cancel: CRIU, and what is done beside it, is waited for.
        """
        log = asyncio.ensure_future(self._log(undo))
        aside: list[asyncio.Future[Any]] = [
            log,
            asyncio.ensure_future(self._layer(undo)),
            asyncio.ensure_future(self.gatherer.in_pause(self.pids)),
        ]
        if beside is not None:
            aside.append(asyncio.ensure_future(beside))
        try:
            image_bytes = await self._criu(facts)
            for work in aside:
                await work
            if self.remaps:
                links = await in_thread(remaps.listed, self.workspace, lane=Lane.PAUSE)
                await self.layer.add_links(links)
                await self.shared.add_links(links)
        except BaseException:
            self.layer.cancel()
            # None is left behind: they write into files that the undo is about to close.
            await asyncio.gather(*aside, return_exceptions=True)
            raise
        return image_bytes, log.result()

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
        count = min(len(self.pids) + _SPARE_FIFOS, _FIFOS_MAX)
        receiver = FifoReceiver(self.writer, options.images, count=count, trail=self.trail)
        advancing = self.phases.advancing(
            "memory", lambda: receiver.received_bytes, total_bytes=self.expected_bytes
        )
        async with advancing, receiver as fifos:
            await runcs.checkpoint(self.source.runc, self.source.container.id, options)
            return await fifos.finish()

    async def _layer(self, undo: contextlib.AsyncExitStack) -> None:
        await self.shared.copy(self.workspace, undo)
        await self.layer.last_pass(self.workspace, undo)
        if not self.remaps:
            await in_thread(remaps.late, self.pids, lane=Lane.PAUSE)

    async def _log(self, undo: contextlib.AsyncExitStack) -> logs.Logged | None:
        if self.source.log is None:
            return None
        return await logs.settled(self.source.log, pid=self.source.container.pid, undo=undo)
