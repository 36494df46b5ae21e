"""Everything of a dump that needs no pause, step by step: from `preflight` to `drain`.

A container that is to be stopped breaks it off; what was made by then is the undo's. The steps and
their undo stand in `dump`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crishim.aio.lanes import Lane
from crishim.aio.shield import in_thread, made_in_thread, to_the_end
from crishim.archive.appearance import refuse_taken
from crishim.archive.writer import ArchiveWriter
from crishim.container import describe
from crishim.dump import remaps, watches
from crishim.dump.checks import preflight, threads
from crishim.dump.connections import SourceConnections
from crishim.dump.ending import Ending
from crishim.dump.freezer import Freezer
from crishim.dump.gather import Gatherer
from crishim.dump.guardian import Guardian
from crishim.dump.ownfiles import OwnFilesDump
from crishim.dump.packing import Packing
from crishim.dump.shm import SharedMemoryDump
from crishim.dump.trail import Trail
from crishim.dump.workspace import Workspace
from crishim.errors import Precondition
from crishim.kernel import process, procs
from crishim.layer.known import FILES_MAX
from crishim.tools import criu
from crishim.tools import runc as runcs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from crishim.aio.undo import Undo
    from crishim.container.resolve import Source
    from crishim.containerd.cri import Cri
    from crishim.dump.request import DumpRequest
    from crishim.flow.handover import Handover, Handovers
    from crishim.flow.locks import Locks
    from crishim.flow.phases import Phases
    from crishim.kernel.net.interface import InterfaceState
    from crishim.network import keeping
    from crishim.paths import Paths
    from crishim.sandbox.held import Held

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What all dumps of one daemon share.

    Attributes:
        refuse_needed: raises if somebody needs an archive, which is never replaced then; blocks.
        drain_timeout_s: how long processes may take to accept what waits, and execs to end.
        keeps: whose addresses can be kept.
        layer_files_max: how many files a container may have of its own.
    """

    paths: Paths
    cri: Cri
    locks: Locks
    held: Held
    refuse_needed: Callable[[Path], None]
    handovers: Handovers
    drain_timeout_s: float
    keeps: keeping.Policy
    layer_files_max: int = FILES_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """What a dump has made by the time of its pause.

    Attributes:
        guardian: watches over the pause.
        gate: no exec begins until it is closed.
        ending: what `stop` means; None without.
        remaps: see `remaps.expect`.
        expected_bytes: about what the memory will take.
    """

    packing: Packing
    guardian: Guardian
    ending: Ending | None
    gate: contextlib.ExitStack
    remaps: bool
    expected_bytes: int


class Preparation:
    """What one dump prepares; its parts are the dump's too.

    Args: request: names the output.
    Attributes: handover: the restore that waits for this dump; None if none does.
    """

    def __init__(
        self, shared: Shared, source: Source, request: DumpRequest, *, phases: Phases
    ) -> None:
        assert request.output is not None
        container = source.container.id
        self._shared = shared
        self._source = source
        self._request = request
        self._target = request.output
        self._phases = phases
        self.handover: Handover | None = None
        self.workspace = Workspace(
            shared.paths.dump(container), shared.paths.logs / f"dump-{container[:13]}"
        )
        self.connections = SourceConnections(source, lasting=request.stop)
        self.freezer = Freezer(runcs.cgroup_of(source.runc, container))
        self.gatherer = Gatherer(source.sandbox.netns, source.container.pid, ends=request.stop)
        self.shared_memory = SharedMemoryDump(source.container.spec)
        self._pids: list[int] = []
        self._ending: Ending | None = None

    @property
    def kept(self) -> bool:
        """Whether the source will not go on any more, or may not: see `Ending.kept`."""
        return self._ending is not None and self._ending.kept

    async def run(self, undo: Undo) -> Ready:
        """Do everything that needs no pause; a stop of the container may break it off."""
        step = self._phases.step
        with step("preflight"):
            tools = await describe.tools(self._source)
            await self._preflight()
        with step("prepare"):
            await self.workspace.open(undo, criu_config=await self._criu_config())
            writer = await self._archive(undo)
            undo.push_async_callback(self._forgotten)
            undo.push_async_callback(self._release)
            interfaces = await self.connections.prepare()
        with step("layer"):
            layer = OwnFilesDump(
                self._source,
                writer,
                pids=self.freezer.read,
                files_max=self._shared.layer_files_max,
            )
            async with self._phases.advancing("layer", lambda: layer.copied_bytes):
                await layer.first_pass()
        with step("blocks"):
            expected_bytes, trail = await self._blocks(undo, writer)
        with step("guard"):
            guardian = await self._guard(undo, writer)
            if self._request.stop:
                self._ending = await self._announce(undo, writer, interfaces)
        with step("changes"):
            await layer.catch_up()
            # What this took of the archive's blocks is made anew.
            await in_thread(writer.prepare, expected_bytes, lane=Lane.BULK)
            places = remaps.places(self._source)
            links = await in_thread(remaps.expect, self.workspace, places, self._pids)
            await self.gatherer.before_pause(undo, self._pids)
        with step("drain"):
            gate = undo.enter_context(contextlib.ExitStack())
            await self._quiet(gate)
            await self.connections.drain(self._pids, timeout_s=self._shared.drain_timeout_s)
        packing = Packing(
            source=self._source,
            request=self._request,
            tools=tools,
            workspace=self.workspace,
            writer=writer,
            layer=layer,
            shared=self.shared_memory,
            gatherer=self.gatherer,
            interfaces=interfaces,
            trail=trail,
        )
        return Ready(
            packing=packing,
            guardian=guardian,
            ending=self._ending,
            gate=gate,
            remaps=links,
            expected_bytes=expected_bytes,
        )

    async def _preflight(self) -> None:
        await in_thread(lambda: refuse_taken(self._target, replace=self._replace()), lane=Lane.BULK)
        self._pids = await self.freezer.processes()
        # An exec of ours, such as a probe, will have ended before the pause, with all it has open.
        if self._shared.locks.execs(self._source.container.id):
            self._pids = await in_thread(preflight.tree, self._source, self._pids)
        await in_thread(preflight.sessions, self._source, self._pids)
        await preflight.network(self._source, self._request, self._shared.keeps)
        await preflight.check(self._source, self._request, pids=self._pids, target=self._target)
        self._phases.lose(await in_thread(threads.check, self._source.container.spec, self._pids))

    async def _criu_config(self) -> str:
        pid = self._source.container.pid
        watched = await in_thread(watches.criu_config, pid, self._pids)
        return criu.dump_config(tcp_close=self._request.tcp == "close") + watched

    async def _archive(self, undo: Undo) -> ArchiveWriter:
        # Until the guardian is there only this tells a new daemon where a half archive lies.
        self.workspace.note_directory(self._target.parent)
        return await made_in_thread(
            undo,
            lambda: ArchiveWriter.create(self._target, replace=self._replace()),
            ArchiveWriter.abort,
        )

    def _replace(self) -> Callable[[], None] | None:
        """What is asked before a file that has the target's name is replaced; None: never."""
        if not self._request.replace:
            return None
        return functools.partial(self._shared.refuse_needed, self._target)

    async def _blocks(self, undo: Undo, writer: ArchiveWriter) -> tuple[int, Trail | None]:
        """Make blocks exist, which shortens the pause and finds a full disk before it.

        Where the archive is going to be waited for, what can be known of it is computed ahead too.
        """
        expected_bytes = await in_thread(procs.memory_bytes, self._pids)
        await in_thread(writer.prepare, expected_bytes, lane=Lane.BULK)
        if self._request.stop:
            await in_thread(writer.digest, lane=Lane.BULK)
        if self.handover is None:
            return expected_bytes, None
        trail = Trail(writer.fd, self.handover.image_directory)
        undo.push_async_callback(in_thread, trail.abandon, lane=Lane.PAUSE)
        await in_thread(trail.prepare, expected_bytes, lane=Lane.BULK)
        return expected_bytes, trail

    async def _guard(self, undo: Undo, writer: ArchiveWriter) -> Guardian:
        hold = self.connections.hold
        guardian = Guardian(
            dump=self.workspace.path,
            partial=writer.partial,
            # Without `stop` the container goes on, whatever becomes of the archive.
            target=self._target if self._request.stop else None,
            freezer=self.freezer.directory,
            # Only a hold that outlasts the daemon is to be lifted by somebody else.
            hold=hold.record.to_json() if hold and self._request.stop else None,
            locked=(writer.fd, self.workspace.lock),
        )
        undo.push_async_callback(self._dismiss, guardian)
        await to_the_end(guardian.start(process.environment()))
        return guardian

    async def _dismiss(self, guardian: Guardian) -> None:
        """Let the guardian go; where we could not thaw the container, let it try."""
        if self.kept or not self.freezer.frozen:
            await guardian.discharge()
            return
        try:
            await guardian.act()
        finally:
            frozen = await self.freezer.stays_frozen()
            await (self._leave_frozen() if frozen else self._forget())

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
        self.workspace.left = True
        if (ending := self._ending) is not None:
            self._shared.held.stays_frozen(ending.record)
            if await in_thread(ending.writer.appeared, lane=Lane.PAUSE) is False:
                await in_thread(self.workspace.note_half, lane=Lane.PAUSE)

    async def _announce(
        self, undo: Undo, writer: ArchiveWriter, interfaces: tuple[InterfaceState, ...]
    ) -> Ending:
        """Write down what `stop` is going to mean, while a durable write costs nobody a pause."""
        held = self._shared.held
        if held.of_sandbox(self._source.sandbox.id):  # its record is not ours to replace or forget
            raise Precondition("a container of the pod was stopped by a checkpoint meanwhile")
        undo.push_async_callback(self._forget)
        status = os.fstat(writer.fd)
        record = await held.keep(
            self._source,
            self.connections.hold,
            interfaces,
            archive=self._target,
            inode=status.st_ino,
            device=status.st_dev,
        )
        return Ending(
            held=held,
            writer=writer,
            workspace=self.workspace,
            record=record,
            handover=self.handover,
        )

    async def _quiet(self, gate: contextlib.ExitStack) -> None:
        """Let no exec begin until `gate` closes, and those that run come to their end."""
        locks, container = self._shared.locks, self._source.container.id
        gate.enter_context(locks.quiet(container))
        await locks.execs_ended(container, timeout_s=self._shared.drain_timeout_s)
        self._pids = await self.freezer.processes()
        await in_thread(preflight.sessions, self._source, self._pids)

    async def _release(self) -> None:
        if not self.kept:
            await self.connections.release()

    async def _forgotten(self) -> None:
        """Make it durable that there is no record; by now nobody waits for the disk."""
        if self._request.stop and not self.kept and not self.freezer.frozen:
            await self._shared.held.forgotten_for_good()

    async def _forget(self) -> None:
        # As long as it may be frozen, its record tells whoever finds it so.
        if not self.kept and not self.freezer.frozen:
            self._shared.held.forget(self._source.sandbox.id)
