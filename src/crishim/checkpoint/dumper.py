"""Takes checkpoints: finds the container, refuses what is held, one dump of a container at a time.

The steps of a dump itself are in `dump`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from crishim.checkpoint import losses
from crishim.checkpoint.dump import Dump
from crishim.checkpoint.flow import unbroken
from crishim.checkpoint.resolve import resolve
from crishim.errors import Precondition

if TYPE_CHECKING:
    from pathlib import Path

    from crishim.checkpoint.dump import Shared
    from crishim.checkpoint.phases import Phases
    from crishim.checkpoint.pins import Pins
    from crishim.checkpoint.request import DumpRequest, DumpResult
    from crishim.checkpoint.resolve import Source
    from crishim.checkpoint.store import Store
    from crishim.checkpoint.turns import Turns
    from crishim.containerd.cri import Cri
    from crishim.containerd.records import Records


@dataclass(frozen=True, slots=True, kw_only=True)
class Dumper:
    """Takes checkpoints; one object serves the daemon."""

    cri: Cri
    records: Records
    namespace: str
    store: Store
    turns: Turns
    pins: Pins
    shared: Shared

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
        container, sandbox = source.container.id, source.sandbox.id
        with self.shared.locks.hold(container, "checkpoint", sandbox=sandbox):
            async with self.turns.take(phases) as waited:
                if waited:
                    source = await self._resolve(container, phases)
                dump = Dump(
                    self.shared,
                    source,
                    request,
                    target=self._target(source, request),
                    phases=phases,
                )
                result = await unbroken(dump.run())
        losses.log(result.manifest.losses, subject=f"checkpoint of {source.container.id[:13]}")
        if self.store.name_of(result.archive):
            await self.pins.add(result.manifest)
        return result

    def _refuse_stopped(self, source: Source) -> None:
        """Refuse a container that was stopped: thawing it would make a second live copy."""
        if record := self.shared.held.of_container(source.container.id):
            raise Precondition(
                f"container {source.container.id[:13]} was stopped by a checkpoint",
                hint=f"its state is in {record.archive}",
            )
        if self.shared.held.of_sandbox(source.sandbox.id):
            raise Precondition("another container of the pod was stopped by a checkpoint")

    async def _resolve(self, container: str, phases: Phases) -> Source:
        with phases.step("resolve"):
            return await resolve(
                container,
                cri=self.cri,
                records=self.records,
                paths=self.shared.paths,
                namespace=self.namespace,
            )

    def _target(self, source: Source, request: DumpRequest) -> Path:
        """Return where the archive is to appear."""
        if request.output is not None:
            return request.output
        pod = source.sandbox.status.metadata
        name = request.name or self.store.new_name(
            namespace=pod.namespace, pod=pod.name, container=source.container.status.metadata.name
        )
        return self.store.path(name)
