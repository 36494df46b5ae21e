"""Dump a running container into an archive: the ordered steps, and the undo of each.

    resolve    find its parts on this node                      nothing to undo
    preflight  refuse what cannot work                          nothing to undo
    prepare    working directory, half archive, hold            removed, ended
    layer      first pass over the writable layer               goes with the half archive
    blocks     write the archive's blocks ahead                 goes with the half archive
    guard      guardian, record of what `stop` means            discharged, removed
    changes    second pass over the layer                       goes with the half archive
    drain      no new execs and connections; running execs end, let go
               accept queues run empty
    pause      freeze the processes                             thawed
    memory     hold the connections; CRIU writes the memory,    let go
               last pass over the layer beside it
    resume     thaw, let go of the connections                  (not with `stop`)
    pack       small images, metadata, manifest; fsync; rename  -
    end        only with `stop`, as soon as the archive has     none: it goes forward only
               its name: end the frozen processes

A restore that waits for this dump (`handover`) goes on as soon as the archive has its name; the
source ends after it.

A failure before the end of `pack` leaves the container running as it was and no file under the
final name. CRIU always leaves the processes alive; with `stop` they stay frozen until their archive
is durable, and only then are they ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crishim.checkpoint import (
    describe,
    logs,
    metadata,
    namedfiles,
    preflight,
    remaps,
    tasks,
    timers,
    unkept,
    watches,
)
from crishim.checkpoint.archive import ArchiveWriter
from crishim.checkpoint.carried import MEMBER
from crishim.checkpoint.connections import SourceConnections
from crishim.checkpoint.flow import in_thread, made_in_thread
from crishim.checkpoint.gather import Gatherer
from crishim.checkpoint.guardian import Guardian
from crishim.checkpoint.lanes import Lane
from crishim.checkpoint.layer_known import FILES_MAX
from crishim.checkpoint.memory import MemoryDump
from crishim.checkpoint.request import DumpResult
from crishim.checkpoint.shm import SharedMemoryDump
from crishim.checkpoint.trail import Trail
from crishim.checkpoint.volumes import OwnFilesDump
from crishim.checkpoint.workspace import Workspace
from crishim.kernel import cgroup, process, procs
from crishim.tools import criu
from crishim.tools import runc as runcs

if TYPE_CHECKING:
    from pathlib import Path

    from crishim.checkpoint.handover import Handovers
    from crishim.checkpoint.held import Held
    from crishim.checkpoint.heldrecord import HeldRecord
    from crishim.checkpoint.locks import Locks
    from crishim.checkpoint.manifest import Manifest
    from crishim.checkpoint.phases import Phases
    from crishim.checkpoint.request import DumpRequest
    from crishim.checkpoint.resolve import Source
    from crishim.kernel.interface import InterfaceState
    from crishim.paths import Paths

_FREEZE_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What all dumps of one daemon share.

    Attributes:
        drain_timeout_s: how long processes may take to accept what waits, and execs to end.
        layer_files_max: how many files a container may have of its own.
    """

    paths: Paths
    locks: Locks
    held: Held
    handovers: Handovers
    drain_timeout_s: float
    layer_files_max: int = FILES_MAX


class Dump:
    """One dump under way; `run` it once.

    Args: target: where the archive is to appear.
    """

    def __init__(
        self,
        shared: Shared,
        source: Source,
        request: DumpRequest,
        *,
        target: Path,
        phases: Phases,
    ) -> None:
        container = source.container.id
        self._shared = shared
        self._source = source
        self._request = request
        self._phases = phases
        self._target = target
        self._workspace = Workspace(
            shared.paths.dump(container), shared.paths.logs / f"dump-{container[:13]}"
        )
        self._connections = SourceConnections(source, lasting=request.stop)
        self._freezer = runcs.cgroup_of(source.runc, container)
        self._pids = cgroup.processes(self._freezer)
        self._shm = SharedMemoryDump(source.container.spec)
        self._packing = Lane.PAUSE if request.stop else Lane.BULK
        self._gatherer = Gatherer(source.sandbox.netns, source.container.pid, ends=request.stop)
        self._remaps = False
        self._paused = False
        self._kept = False
        self._handover = shared.handovers.of(container) if request.stop else None
        self._trail: Trail | None = None
        self._expected_bytes = self._log_bytes = self._image_bytes = 0

    async def run(self) -> DumpResult:
        """Go through the steps; the module's docstring tells them and their undo."""
        step, stop = self._phases.step, self._request.stop
        async with contextlib.AsyncExitStack() as undo:
            if self._handover is not None:
                undo.callback(self._handover.dump_ended)
            with step("preflight"):
                tools = await describe.tools(self._source)
                await self._preflight()
            with step("prepare"):
                await self._workspace.open(undo, criu_config=await self._criu_config())
                writer = await self._archive(undo)
                undo.push_async_callback(self._release)
                interfaces = await self._connections.prepare()
            with step("layer"):
                layer = OwnFilesDump(
                    self._source,
                    writer,
                    pids=lambda: cgroup.processes(self._freezer),
                    files_max=self._shared.layer_files_max,
                )
                await layer.first_pass()
            with step("blocks"):
                await self._blocks(undo, writer)
            with step("guard"):
                await self._guard(undo, writer)
                record = await self._announce(undo, writer, interfaces) if stop else None
            with step("changes"):
                await self._changes(writer, layer)
                await self._gatherer.before_pause(undo, self._pids)
            with step("drain"):
                gate = undo.enter_context(contextlib.ExitStack())
                await self._quiet(gate)
                await self._connections.drain(self._pids, timeout_s=self._shared.drain_timeout_s)
            with step("pause"):
                frozen_at_ns = time.time_ns()
                await self._pause(undo)
            with step("memory"):
                await self._connections.close(self._pids)
                if self._handover is not None:
                    self._handover.connections_are_held()
                await self._memory(undo, writer, layer, tools.runc)
            if not stop:
                with step("resume", deadline=False):
                    await self._thaw()
                    gate.close()
                    await self._connections.release()
            with step("pack", deadline=stop):
                await in_thread(self._add_entries, writer, layer, frozen_at_ns, lane=self._packing)
                manifest = self._manifest(tools, layer, frozen_at_ns, interfaces)
                size = await self._commit(writer, manifest, record)
            if stop:
                with step("end", deadline=False):
                    await self._end()
        return DumpResult(
            archive=self._target, archive_bytes=size, manifest=manifest, phases=self._phases
        )

    async def _preflight(self) -> None:
        locks, container = self._shared.locks, self._source.container.id
        await preflight.check(self._source, self._request, pids=self._pids, target=self._target)
        self._phases.lose(await in_thread(tasks.check, self._source.container.spec, self._pids))
        # An exec of ours, such as a probe, will have ended before the pause.
        if not locks.execs(container):
            await in_thread(preflight.sessions, self._source, self._pids)

    async def _quiet(self, gate: contextlib.ExitStack) -> None:
        """Let no exec begin until `gate` closes, and those that run come to their end."""
        locks, container = self._shared.locks, self._source.container.id
        gate.enter_context(locks.quiet(container))
        await locks.execs_ended(container, timeout_s=self._shared.drain_timeout_s)
        self._pids = await in_thread(cgroup.processes, self._freezer)
        await in_thread(preflight.sessions, self._source, self._pids)

    async def _criu_config(self) -> str:
        pid = self._source.container.pid
        watched = await in_thread(watches.criu_config, pid, self._pids)
        return criu.dump_config(tcp_close=self._request.tcp == "close") + watched

    async def _archive(self, undo: contextlib.AsyncExitStack) -> ArchiveWriter:
        # Until the guardian is there only this tells a new daemon where a half archive lies.
        self._workspace.note_directory(self._target.parent)
        return await made_in_thread(
            undo, lambda: ArchiveWriter.create(self._target), ArchiveWriter.abort
        )

    async def _release(self) -> None:
        if not self._kept:
            await self._connections.release()

    async def _blocks(self, undo: contextlib.AsyncExitStack, writer: ArchiveWriter) -> None:
        """Make blocks exist, which shortens the pause and finds a full disk before it.

        Where the archive is going to be waited for, what can be known of it is computed ahead too.
        """
        self._expected_bytes = await in_thread(procs.memory_bytes, self._pids)
        await in_thread(writer.prepare, self._expected_bytes, lane=Lane.BULK)
        if self._request.stop:
            await in_thread(writer.digest, lane=Lane.BULK)
        if self._handover is not None:
            self._trail = Trail(writer.fd, self._handover.image_directory)
            undo.push_async_callback(in_thread, self._trail.abandon, lane=Lane.PAUSE)
            await in_thread(self._trail.prepare, self._expected_bytes, lane=Lane.BULK)

    async def _guard(self, undo: contextlib.AsyncExitStack, writer: ArchiveWriter) -> None:
        hold = self._connections.hold
        guardian = Guardian(
            dump=self._workspace.path,
            partial=writer.partial,
            freezer=self._freezer,
            netns=hold.record.netns if hold else "",
            table=f"{hold.record.family} {hold.record.table}" if hold else "",
            locked=(writer.fd, self._workspace.lock),
        )
        await guardian.start(process.environment())
        undo.push_async_callback(guardian.discharge)

    async def _announce(
        self,
        undo: contextlib.AsyncExitStack,
        writer: ArchiveWriter,
        interfaces: tuple[InterfaceState, ...],
    ) -> HeldRecord:
        """Write down what `stop` is going to mean, while a durable write costs nobody a pause."""
        held, inode = self._shared.held, os.fstat(writer.fd).st_ino

        def forget() -> None:
            if not self._kept:
                held.forget(self._source.sandbox.id)

        undo.callback(forget)
        return await held.keep(
            self._source, self._connections.hold, interfaces, archive=self._target, inode=inode
        )

    async def _changes(self, writer: ArchiveWriter, layer: OwnFilesDump) -> None:
        """Catch up with the layer; what this takes of the archive's blocks is made anew."""
        await layer.catch_up()
        await in_thread(writer.prepare, self._expected_bytes, lane=Lane.BULK)
        places = remaps.places(self._source)
        self._remaps = await in_thread(remaps.expect, self._workspace, places, self._pids)

    async def _pause(self, undo: contextlib.AsyncExitStack) -> None:
        # Registered first: a cancelled or failed pause may have frozen the container all the same.
        self._paused = True
        self._workspace.note_freezer(self._freezer)
        undo.push_async_callback(self._thaw)
        # Not by `runc pause`: starting it takes longer than the rest of a small process's pause.
        await in_thread(
            lambda: cgroup.freeze(self._freezer, timeout_s=_FREEZE_TIMEOUT_S), lane=Lane.PAUSE
        )

    async def _thaw(self) -> None:
        if self._paused and not self._kept:
            await in_thread(cgroup.thaw, self._freezer, lane=Lane.PAUSE)
            self._paused = False

    async def _memory(
        self,
        undo: contextlib.AsyncExitStack,
        writer: ArchiveWriter,
        layer: OwnFilesDump,
        facts: runcs.RuncFacts,
    ) -> None:
        memory = MemoryDump(
            source=self._source,
            workspace=self._workspace,
            writer=writer,
            layer=layer,
            shared=self._shm,
            pids=self._pids,
            tcp=self._request.tcp,
            trail=self._trail,
            remaps=self._remaps,
            gatherer=self._gatherer,
        )
        self._image_bytes, self._log_bytes = await memory.run(facts, undo)

    def _add_entries(self, writer: ArchiveWriter, layer: OwnFilesDump, frozen_at_ns: int) -> None:
        namedfiles.check(self._workspace.images, self._source, stop=self._request.stop)
        timers.rearm(self._workspace.images)
        self._image_bytes += writer.add_images(self._workspace.images)
        if carried := self._gatherer.entry():
            writer.add_bytes(MEMBER, carried)
        self._phases.lose(self._gatherer.losses)
        self._phases.lose(unkept.by_criu(self._workspace.path / "dump.log"))
        layer.add()
        self._shm.add(writer)
        for name in ("stats-dump", "dump.log"):
            writer.add_bytes(name, (self._workspace.path / name).read_bytes())
        described = metadata.entries(self._source.container, checkpointed_at_ns=frozen_at_ns)
        for name, data in described.items():
            writer.add_bytes(name, data)
        if self._source.log is not None:
            logs.add(writer, self._source.log, size_bytes=self._log_bytes)

    def _manifest(
        self,
        tools: describe.Tools,
        layer: OwnFilesDump,
        frozen_at_ns: int,
        interfaces: tuple[InterfaceState, ...],
    ) -> Manifest:
        last = "memory" if self._request.stop else "resume"
        return describe.manifest(
            self._source,
            tools,
            describe.Facts(
                frozen_at_ns=frozen_at_ns,
                tcp=self._request.tcp,
                source_running=not self._request.stop,
                interfaces=interfaces,
                freeze_us=self._phases.until_us("pause", last),
                image_bytes=self._image_bytes,
                layer_bytes=layer.layer_bytes,
                phases_us={phase.name: phase.duration_us for phase in self._phases.done},
                criu=criu.read_dump_statistics(self._workspace.path / "stats-dump"),
                losses=self._phases.losses,
            ),
        )

    async def _commit(
        self, writer: ArchiveWriter, manifest: Manifest, record: HeldRecord | None
    ) -> int:
        """Let the archive appear; with `stop` this is the point of no return."""
        partial = writer.partial
        if record is None:
            try:
                return await in_thread(writer.commit, manifest, lane=self._packing)
            except asyncio.CancelledError:
                if not partial.exists():
                    # It appeared all the same; whoever cancelled was told that there is none.
                    await in_thread(self._target.unlink, lane=Lane.PAUSE)
                raise
        try:
            if self._handover is None:
                size = await in_thread(writer.commit, manifest, lane=self._packing)
            else:
                copies = await in_thread(self._publish, writer, manifest, lane=self._packing)
                self._settle(record)
                self._handover.archive_appeared(self._target, copies)
                size = await in_thread(writer.settle, lane=self._packing)
        except BaseException:
            # A cancellation or a failed fsync may come after the rename: then it goes forward.
            if not partial.exists():
                self._settle(record)
                await self._end()
            raise
        self._settle(record)
        return size

    def _publish(self, writer: ArchiveWriter, manifest: Manifest) -> Path | None:
        """Let the archive appear before it is durable; return where its page images are too."""
        assert self._trail is not None
        digests, copies = self._trail.finish()
        writer.digest(digests)
        writer.publish(manifest)
        return copies

    def _settle(self, record: HeldRecord) -> None:
        self._kept = True
        self._shared.held.committed(record)

    async def _end(self) -> None:
        """End the frozen processes; their connections stay held for whoever restores them.

        A kubelet would restart what ends by itself, so its containers stay frozen until it stops
        them (`Held.end`).
        """
        if self._handover is not None:
            await self._handover.wait_over()
        if not self._source.kubelet:
            await self._shared.held.end(self._source.sandbox.id)
