"""Takes checkpoints: finds the container, refuses what is held, one dump of a container at a time.

The steps of a dump itself are in `dump`.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from crishim import losses
from crishim.aio.shield import in_thread, unbroken
from crishim.dump.dump import Dump
from crishim.errors import Busy, Precondition, Unavailable
from crishim.layer.overlay import overlay_of_snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from crishim.container.resolve import Resolver, Source
    from crishim.containerd.records import Records
    from crishim.dump.context import DumpContext
    from crishim.dump.request import DumpRequest, DumpResult
    from crishim.flow.phases import Phases
    from crishim.flow.turns import Turns
    from crishim.store.pins import Pins
    from crishim.store.store import Store

_log = logging.getLogger(__name__)


class Targets:
    """Where archives are being written: one dump at a time for each place."""

    def __init__(self) -> None:
        self._taken: set[Path] = set()

    @contextlib.contextmanager
    def one(self, request: DumpRequest) -> Iterator[None]:
        """Own a request's output for the block; raise Busy if another dump writes there."""
        target = request.output
        assert target is not None
        if target in self._taken:
            raise Busy(f"another checkpoint is being written to {target}")
        self._taken.add(target)
        try:
            yield
        finally:
            self._taken.remove(target)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dumper:
    """Takes checkpoints; one object serves the daemon."""

    resolver: Resolver
    records: Records
    store: Store
    turns: Turns
    targets: Targets
    pins: Pins
    context: DumpContext

    async def dump(self, request: DumpRequest, phases: Phases) -> DumpResult:
        """Take one checkpoint.

        Raises:
            NotFound, Precondition, Unsupported: refused before anything was touched.
            ToolMissing: there is no CRIU, or only one that is too old.
            AlreadyExists: the output is there already; nothing was overwritten.
            Busy: another operation on the container is under way, or it is being stopped.
            Unavailable: what an earlier daemon left in its pod is not in order yet.
            NoSpace: the archive does not fit, or too many dumps wait; the container runs on.
            ToolFailed: runc or CRIU failed; the container runs on, CRIU's log is kept.
            DeadlineExceeded: between two phases; the container runs on.
        On cancel: at the next phase; the container runs on.
        """
        source = await self._resolve(request.container, phases)
        container, sandbox = source.container.id, source.sandbox.id
        await self.context.locks.recovered.wait(container, sandbox)
        self._refuse_stopped(source)
        if request.stop:
            await self._refuse_unrestorable(source)
        hold = self.context.locks.hold(container, "checkpoint", sandbox=sandbox)
        with hold as operation:
            async with contextlib.AsyncExitStack() as turn:
                with operation.gives_way():
                    if await turn.enter_async_context(self.turns.take(phases)):
                        source = await self._resolve(container, phases)
                    self._refuse_stopped(source)  # somebody may have done so since
                wanted = replace(request, output=await in_thread(self._target, source, request))
                turn.enter_context(self.targets.one(wanted))
                dump = Dump(
                    context=self.context,
                    source=source,
                    request=wanted,
                    operation=operation,
                    phases=phases,
                )
                result = await unbroken(dump.run())
        self._tell(source, result)
        losses.log(result.manifest.losses, subject=f"checkpoint of {source.container.id[:13]}")
        if self.store.name_of(result.archive):
            await self.pins.add(result.manifest)
        return result

    def _tell(self, source: Source, result: DumpResult) -> None:
        pod, figures = source.sandbox.status.metadata, result.manifest.statistics
        frozen = f" (frozen {result.frozen_us / 1e3:.0f} ms until it was durable)"
        _log.info(
            "checkpointed container %s (%s of pod %s/%s): %s, %.1f MB, paused %.0f ms%s",
            source.container.id[:13],
            source.container.status.metadata.name,
            pod.namespace,
            pod.name,
            result.archive,
            result.archive_bytes / 1e6,
            figures.freeze_us / 1e3,
            frozen * bool(result.frozen_us),
        )

    async def _refuse_unrestorable(self, source: Source) -> None:
        """Refuse to stop a container whose like no restore could fill.

        Its root may be an overlay, and its snapshotter make that of several mounts.
        """
        container = source.container
        mounts = await self.records.mounts(
            snapshotter=container.snapshotter, key=container.snapshot_key
        )
        overlay_of_snapshot([(each.type, each.source, each.options) for each in mounts])

    def _refuse_stopped(self, source: Source) -> None:
        """Refuse a container that was stopped: thawing it would make a second live copy."""
        if self.context.held.records.is_undecided(source.container.id):
            raise Unavailable(
                f"container {source.container.id[:13]} stands frozen since an earlier checkpoint, "
                "and is not in order yet",
                hint="see the daemon's log, and try again",
            )
        if stopped := self.context.held.records.of_container(source.container.id):
            raise Precondition(
                f"container {source.container.id[:13]} was stopped by a checkpoint",
                hint=f"its state is in {stopped[1].archive}",
            )
        if self.context.held.records.of_sandbox(source.sandbox.id):
            raise Precondition("another container of the pod was stopped by a checkpoint")

    async def _resolve(self, container: str, phases: Phases) -> Source:
        with phases.step("resolve"):
            return await self.resolver.source(container)

    def _target(self, source: Source, request: DumpRequest) -> Path:
        """Return where the archive is to appear. Blocks."""
        if request.output is not None:
            return request.output
        pod = source.sandbox.status.metadata
        name = request.name or self.store.new_name(
            namespace=pod.namespace, pod=pod.name, container=source.container.status.metadata.name
        )
        return self.store.path(name)
