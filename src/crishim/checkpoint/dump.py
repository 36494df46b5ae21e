"""Dump a running container into an archive: the ordered steps, and the undo of each.

    resolve    find its parts on this node                      nothing to undo
    preflight  refuse what cannot work                          nothing to undo
    prepare    working directory, half archive, hold            removed, ended
    layer      first pass over the writable layer               goes with the half archive
    blocks     write the archive's blocks ahead                 goes with the half archive
    guard      guardian, record of what `stop` means            discharged, removed
    drain      no new execs and connections; running execs end, let go
               accept queues run empty
    pause      freeze the processes                             thawed
    memory     hold the connections; CRIU writes the memory,    let go
               second pass over the layer beside it
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
from pathlib import Path
from typing import TYPE_CHECKING

from crishim.checkpoint import address, describe, logs, metadata, preflight
from crishim.checkpoint.archive import ArchiveWriter
from crishim.checkpoint.fifo import FifoReceiver
from crishim.checkpoint.flow import in_thread, unbroken
from crishim.checkpoint.guardian import Guardian
from crishim.checkpoint.hold import SourceHold
from crishim.checkpoint.layer import FIRST_MEMBER, SECOND_MEMBER, LayerCapture
from crishim.checkpoint.request import DumpResult
from crishim.checkpoint.resolve import resolve
from crishim.errors import Busy, Precondition
from crishim.kernel import atomic, cgroup, process, procs, tree
from crishim.tools import criu
from crishim.tools import runc as runcs

if TYPE_CHECKING:
    from crishim.checkpoint.handover import Handovers
    from crishim.checkpoint.held import Held
    from crishim.checkpoint.heldrecord import HeldRecord
    from crishim.checkpoint.locks import Locks
    from crishim.checkpoint.manifest import Manifest
    from crishim.checkpoint.phases import Phases
    from crishim.checkpoint.pins import Pins
    from crishim.checkpoint.request import DumpRequest
    from crishim.checkpoint.resolve import Source
    from crishim.checkpoint.store import Store
    from crishim.checkpoint.turns import Turns
    from crishim.containerd.cri import Cri
    from crishim.containerd.records import Records
    from crishim.kernel.interface import InterfaceState
    from crishim.paths import Paths

_DIRECTORY = "directory"
_FREEZER = "freezer"
_FREEZE_TIMEOUT_S = 10.0
_SPARE_FIFOS = 8
"""CRIU writes one page image per process and per piece of shared memory; with too few FIFOs the
rest become ordinary files, which costs a copy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dumper:
    """Takes checkpoints; one object serves the daemon."""

    cri: Cri
    records: Records
    paths: Paths
    namespace: str
    store: Store
    locks: Locks
    turns: Turns
    held: Held
    handovers: Handovers
    pins: Pins
    drain_timeout_s: float

    async def dump(self, request: DumpRequest, phases: Phases) -> DumpResult:
        """Take one checkpoint.

        Raises:
            NotFound, Precondition, Unsupported: refused before anything was touched.
            ToolMissing: there is no CRIU, or only one that is too old.
            Busy: another operation on the container is under way.
            NoSpace: the archive does not fit, or too many dumps wait; the container runs on.
            ToolFailed: runc or CRIU failed; the container runs on, CRIU's log is kept.
            DeadlineExceeded: between two phases; the container runs on.
        On cancel: at the next phase; the container runs on.
        """
        source = await self._resolve(request.container, phases)
        self._refuse_stopped(source)
        with self.locks.hold(source.container.id, "checkpoint"):
            async with self.turns.take(phases) as waited:
                if waited:
                    source = await self._resolve(source.container.id, phases)
                result = await unbroken(_Dump(self, source, request, phases).run())
        if self.store.name_of(result.archive):
            await self.pins.add(result.manifest)
        return result

    def _refuse_stopped(self, source: Source) -> None:
        """Refuse a container that was stopped: thawing it would make a second live copy."""
        if record := self.held.of_container(source.container.id):
            raise Precondition(
                f"container {source.container.id[:13]} was stopped by a checkpoint",
                hint=f"its state is in {record.archive}",
            )
        if self.held.of_sandbox(source.sandbox.id):
            raise Precondition("another container of the pod was stopped by a checkpoint")

    async def _resolve(self, container: str, phases: Phases) -> Source:
        with phases.step("resolve"):
            return await resolve(
                container,
                cri=self.cri,
                records=self.records,
                paths=self.paths,
                namespace=self.namespace,
            )

    def target(self, source: Source, request: DumpRequest) -> Path:
        """Return where the archive is to appear."""
        if request.output is not None:
            return request.output
        pod = source.sandbox.status.metadata
        name = request.name or self.store.new_name(
            namespace=pod.namespace, pod=pod.name, container=source.container.status.metadata.name
        )
        return self.store.path(name)


class _Dump:
    """One dump under way."""

    def __init__(
        self, dumper: Dumper, source: Source, request: DumpRequest, phases: Phases
    ) -> None:
        self._dumper = dumper
        self._source = source
        self._request = request
        self._phases = phases
        self._target = dumper.target(source, request)
        self._work = dumper.paths.dump(source.container.id)
        self._kept_logs = dumper.paths.logs / f"dump-{source.container.id[:13]}"
        self._freezer = runcs.cgroup_of(source.runc, source.container.id)
        self._pids = cgroup.processes(self._freezer)
        self._mapped: frozenset[str] = frozenset()
        self._sockets: frozenset[int] | None = None
        self._lock = -1
        self._paused = False
        self._kept = False
        self._handover = dumper.handovers.of(source.container.id) if request.stop else None
        self._log_bytes = self._layer_bytes = self._changes_bytes = self._image_bytes = 0

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
                await self._workspace(undo)
                writer = await self._archive(undo)
                hold = await self._prepare_hold(undo)
                interfaces = await self._interfaces(hold)
            with step("layer"):
                capture = LayerCapture(self._source.layer)
                await self._layer(writer, capture)
            with step("blocks"):
                # Blocks that exist already shorten the pause, and a full disk is found before it.
                await in_thread(writer.prepare, await in_thread(procs.memory_bytes, self._pids))
            with step("guard"):
                await self._guard(undo, writer, hold)
                record = await self._announce(undo, writer, hold, interfaces) if stop else None
            with step("drain"):
                gate = undo.enter_context(contextlib.ExitStack())
                await self._quiet(gate)
                await self._drain(hold)
            with step("pause"):
                frozen_at_ns = time.time_ns()
                await self._pause(undo)
            with step("memory"):
                if hold is not None:
                    await self._hold(hold)
                if self._handover is not None:
                    self._handover.connections_are_held()
                changes = await self._memory(writer, capture, tools.runc)
                undo.callback(os.close, changes)
            if not stop:
                with step("resume", deadline=False):
                    await self._thaw()
                    gate.close()
                    if hold is not None:
                        await hold.release()
            with step("pack", deadline=stop):
                await in_thread(self._add_entries, writer, changes, frozen_at_ns)
                manifest = self._manifest(tools, frozen_at_ns, interfaces)
                size = await self._commit(writer, manifest, record)
            if stop:
                with step("end", deadline=False):
                    await self._end()
        return DumpResult(
            archive=self._target, archive_bytes=size, manifest=manifest, phases=self._phases
        )

    async def _preflight(self) -> None:
        locks, container = self._dumper.locks, self._source.container.id
        await preflight.check(self._source, self._request, pids=self._pids, target=self._target)
        # An exec of ours, such as a probe, will have ended before the pause.
        if not locks.execs(container):
            await in_thread(preflight.sessions, self._source, self._pids)

    async def _quiet(self, gate: contextlib.ExitStack) -> None:
        """Let no exec begin until `gate` closes, and those that run come to their end."""
        locks, container = self._dumper.locks, self._source.container.id
        gate.enter_context(locks.quiet(container))
        await locks.execs_ended(container, timeout_s=self._dumper.drain_timeout_s)
        self._pids = await in_thread(cgroup.processes, self._freezer)
        await in_thread(preflight.sessions, self._source, self._pids)

    async def _workspace(self, undo: contextlib.AsyncExitStack) -> None:
        """Make the working directory; a failure keeps the logs of it, nothing else.

        Raises: Busy: the guardian of an earlier daemon's dump is still at work in it.
        """
        self._work.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = atomic.try_lock(self._work / "lock")
        if lock is None:
            raise Busy("an earlier dump of the container is still being undone")
        self._lock = lock
        undo.callback(os.close, lock)
        await in_thread(tree.remove_tree, self._work / "images")
        (self._work / "images").mkdir(mode=0o700)
        config = criu.dump_config(tcp_close=self._request.tcp == "close")
        (self._work / "criu.conf").write_text(config, encoding="utf-8")
        undo.push_async_callback(in_thread, tree.remove_tree, self._work)

        def keep(kind: type[BaseException] | None, *_: object) -> None:
            if kind is not None:
                logs.keep(self._work, self._kept_logs)

        undo.push(keep)

    async def _archive(self, undo: contextlib.AsyncExitStack) -> ArchiveWriter:
        # Until the guardian is there only this tells a new daemon where a half archive lies.
        (self._work / _DIRECTORY).write_text(str(self._target.parent), encoding="utf-8")
        writer = await in_thread(ArchiveWriter.create, self._target)
        undo.callback(writer.abort)
        return writer

    async def _prepare_hold(self, undo: contextlib.AsyncExitStack) -> SourceHold | None:
        """Get ready to hold the pod's connections; None where there are none of its own."""
        if self._source.sandbox.host_network:
            return None
        hold = await SourceHold.prepare(self._source.sandbox.netns, lasting=self._request.stop)
        undo.push_async_callback(self._release, hold)
        return hold

    async def _drain(self, hold: SourceHold | None) -> None:
        """Let accept queues run empty: CRIU refuses a listener with connections in it."""
        if hold is None:
            return
        if self._source.neighbours:
            self._sockets = (await in_thread(procs.open_files, self._pids)).sockets
        await hold.drain(timeout_s=self._dumper.drain_timeout_s, listeners=self._sockets)

    async def _hold(self, hold: SourceHold) -> None:
        """Hold the pod's connections, or the container's where other containers go on."""
        only = None
        if self._source.neighbours:
            files = await in_thread(procs.open_files, self._pids)
            only = await hold.sockets(files.sockets)
        await hold.close(only)

    async def _release(self, hold: SourceHold) -> None:
        if not self._kept:
            await hold.release()

    async def _interfaces(self, hold: SourceHold | None) -> tuple[InterfaceState, ...]:
        return () if hold is None else (await address.read(self._source.sandbox.netns),)

    async def _layer(self, writer: ArchiveWriter, capture: LayerCapture) -> None:
        self._mapped = await in_thread(procs.shared_mappings, self._pids)
        begin = writer.begin_member(FIRST_MEMBER)
        end = await in_thread(capture.first_pass, writer.fd, begin, cancel=capture.cancel)
        writer.end_member(end)
        self._layer_bytes = end - begin

    async def _guard(
        self, undo: contextlib.AsyncExitStack, writer: ArchiveWriter, hold: SourceHold | None
    ) -> None:
        guardian = Guardian(
            dump=self._work,
            partial=writer.partial,
            freezer=self._freezer,
            netns=hold.record.netns if hold else "",
            table=f"{hold.record.family} {hold.record.table}" if hold else "",
            locked=(writer.fd, self._lock),
        )
        await guardian.start(process.environment())
        undo.push_async_callback(guardian.discharge)

    async def _pause(self, undo: contextlib.AsyncExitStack) -> None:
        # Registered first: a cancelled or failed pause may have frozen the container all the same.
        self._paused = True
        (self._work / _FREEZER).write_text(str(self._freezer), encoding="utf-8")
        undo.push_async_callback(self._thaw)
        # Not by `runc pause`: starting it takes longer than the rest of a small process's pause.
        await in_thread(lambda: cgroup.freeze(self._freezer, timeout_s=_FREEZE_TIMEOUT_S))

    async def _thaw(self) -> None:
        if self._paused and not self._kept:
            await in_thread(cgroup.thaw, self._freezer)
            self._paused = False

    async def _memory(
        self, writer: ArchiveWriter, capture: LayerCapture, facts: runcs.RuncFacts
    ) -> int:
        """Let CRIU write the memory into the archive.

        Meanwhile the container's log comes to its end, and what changed in the layer since the
        first pass goes into an unnamed file, whose descriptor is returned.
        """
        options = runcs.CheckpointOptions(
            images=self._work / "images",
            work=self._work,
            criu_config=self._work / "criu.conf",
            kept_logs=self._kept_logs,
            leave_running=True,
            cgroups_mode=facts.cgroups_mode,
            tcp_established=self._request.tcp == "established",
            link_remap=facts.link_remap,
        )
        changes = os.open(self._work, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        aside = asyncio.gather(self._changes(capture, changes), self._log_end())
        try:
            with FifoReceiver(
                writer, options.images, count=len(self._pids) + _SPARE_FIFOS
            ) as fifos:
                await runcs.checkpoint(self._source.runc, self._source.container.id, options)
                self._image_bytes = await fifos.finish()
            await aside
        except BaseException:
            capture.cancel()
            await asyncio.gather(aside, return_exceptions=True)
            os.close(changes)
            raise
        return changes

    async def _changes(self, capture: LayerCapture, fd: int) -> None:
        def second_pass() -> int:
            mapped = self._mapped | procs.shared_mappings(self._pids)
            return capture.second_pass(fd, 0, always=mapped) or 0

        self._changes_bytes = await in_thread(second_pass, cancel=capture.cancel)

    async def _log_end(self) -> None:
        if self._source.log is not None:
            pid = self._source.container.pid
            self._log_bytes = await logs.settled_size(self._source.log, pid=pid)

    def _manifest(
        self, tools: describe.Tools, frozen_at_ns: int, interfaces: tuple[InterfaceState, ...]
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
                layer_bytes=self._layer_bytes + self._changes_bytes,
                phases_us={phase.name: phase.duration_us for phase in self._phases.done},
                criu=criu.read_dump_statistics(self._work / "stats-dump"),
            ),
        )

    async def _announce(
        self,
        undo: contextlib.AsyncExitStack,
        writer: ArchiveWriter,
        hold: SourceHold | None,
        interfaces: tuple[InterfaceState, ...],
    ) -> HeldRecord:
        """Write down what `stop` is going to mean, while a durable write costs nobody a pause."""
        held, inode = self._dumper.held, os.fstat(writer.fd).st_ino

        def forget() -> None:
            if not self._kept:
                held.forget(self._source.sandbox.id)

        undo.callback(forget)
        return await held.keep(self._source, hold, interfaces, archive=self._target, inode=inode)

    async def _commit(
        self, writer: ArchiveWriter, manifest: Manifest, record: HeldRecord | None
    ) -> int:
        """Let the archive appear; with `stop` this is the point of no return."""
        partial = writer.partial
        if record is None:
            try:
                return await in_thread(writer.commit, manifest)
            except asyncio.CancelledError:
                if not partial.exists():
                    # It appeared all the same; whoever cancelled was told that there is none.
                    await in_thread(self._target.unlink)
                raise
        try:
            if self._handover is None:
                size = await in_thread(writer.commit, manifest)
            else:
                await in_thread(writer.publish, manifest)
                self._settle(record)
                self._handover.archive_appeared(self._target)
                size = await in_thread(writer.settle)
        except BaseException:
            # A cancellation or a failed fsync may come after the rename: then it goes forward.
            if not partial.exists():
                self._settle(record)
                await self._end()
            raise
        self._settle(record)
        return size

    def _settle(self, record: HeldRecord) -> None:
        self._kept = True
        self._dumper.held.committed(record)

    def _add_entries(self, writer: ArchiveWriter, changes: int, frozen_at_ns: int) -> None:
        self._image_bytes += writer.add_images(self._work / "images")
        if self._changes_bytes:
            writer.add_file(SECOND_MEMBER, changes)
        for name in ("stats-dump", "dump.log"):
            writer.add_bytes(name, (self._work / name).read_bytes())
        described = metadata.entries(self._source.container, checkpointed_at_ns=frozen_at_ns)
        for name, data in described.items():
            writer.add_bytes(name, data)
        if self._source.log is not None:
            logs.add(writer, self._source.log, size_bytes=self._log_bytes)

    async def _end(self) -> None:
        """End the frozen processes; their connections stay held for whoever restores them.

        A kubelet would restart what ends by itself, so its containers stay frozen until it stops
        them (`Held.end`).
        """
        if self._handover is not None:
            await self._handover.wait_over()
        if not self._source.kubelet:
            await self._dumper.held.end(self._source.sandbox.id)


def thaw_abandoned(work: Path) -> None:
    """Thaw what a dump has frozen whose daemon and guardian are both gone.

    Args: work: the working directory of that dump.
    """
    try:
        freezer = (work / _FREEZER).read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    cgroup.thaw(Path(freezer))


def archive_directory(work: Path) -> Path | None:
    """Return where an abandoned dump was writing its archive, if it came that far."""
    try:
        return Path((work / _DIRECTORY).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
