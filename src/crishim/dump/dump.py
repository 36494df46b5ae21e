"""Dump a running container into an archive: the ordered steps, and the undo of each.

    resolve    find its parts on this node                      nothing to undo
    preflight  refuse what cannot work                          nothing to undo
    prepare    working directory, half archive, ends of veth    removed, closed
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
    pack       small images, metadata, digests; fsync           goes with the half archive
    publish    the archive gets its name                        withdrawn (not with `stop`)
    end        only with `stop`: see `ending`                   none: it goes forward only

A stop or removal of the container or its pod breaks a dump off until the pause; after it they wait.
With `stop` no other container of the pod may start from `preflight` on.

They stand in modules of their names, but for `resolve` (in `dumper`), those from `preflight` to
`drain` (all in `prepare`), and `pause` and `resume` (in `freeze`). Each stage is a function that
takes what the one before has made and returns what it has made itself: `Prepared`, `Frozen`,
`Written`, `Packed`. What they take is all they know of the order: this one is for one container,
and those of several containers can be interleaved.

A failure before `publish` leaves the container running as it was and no file under the final name.
CRIU always leaves the processes alive; with `stop` they stay frozen until their archive is durable,
or they live on elsewhere, and only then are they ended; what a kubelet manages when that stops it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from crishim.aio import quiet
from crishim.aio.undo import Undo
from crishim.container import resolve
from crishim.dump.fifo import ArchivePages
from crishim.dump.freeze import freeze, hold_connections, resume
from crishim.dump.memory import write_memory
from crishim.dump.pack import pack
from crishim.dump.parts import Parts
from crishim.dump.prepare import drain, prepare
from crishim.dump.publish import publish
from crishim.dump.request import DumpResult
from crishim.errors import Precondition

if TYPE_CHECKING:
    from crishim.container.resolve import Source
    from crishim.dump.context import DumpContext
    from crishim.dump.request import DumpRequest
    from crishim.flow.handover import Handover
    from crishim.flow.locks import Operation
    from crishim.flow.phases import Phases


@dataclass(frozen=True, slots=True, kw_only=True)
class Dump:
    """The dump of one container; `run` it once.

    Attributes: request: names the output. operation: the lock that is held for the dump.
    """

    context: DumpContext
    source: Source
    request: DumpRequest
    operation: Operation
    phases: Phases

    async def run(self) -> DumpResult:
        """Go through the steps; the module's docstring tells them and their undo."""
        step, stop = self.phases.step, self.request.stop
        async with Undo() as undo:
            parts = Parts.make(
                self.context,
                self.source,
                self.request,
                phases=self.phases,
                handover=self._cut_off(undo) if stop else None,
            )
            with self.operation.gives_way():
                prepared = await prepare(parts, undo)
                with step("drain"):
                    gate = await drain(prepared, undo)
            with quiet.kept():  # no longer: a restore that waits has bulk work of its own then
                with step("pause"):
                    frozen = await freeze(prepared, undo)
                with step("memory"):
                    await hold_connections(frozen)
                    sink = ArchivePages(writer=prepared.writer, trail=prepared.trail)
                    beside = self._still_alone() if stop else None
                    written = await write_memory(frozen, sink, undo, beside=beside)
            if not stop:
                with step("resume", deadline=False):
                    await resume(frozen, gate)
            freeze_us = frozen.elapsed_us
            with step("pack", deadline=stop):
                packed = await pack(frozen, written, freeze_us=freeze_us)
            size = await publish(packed)
        return DumpResult(
            archive=prepared.writer.target,
            archive_bytes=size,
            manifest=packed.manifest,
            phases=self.phases,
        )

    def _cut_off(self, undo: Undo) -> Handover | None:
        """Let no other container of the pod start; return the restore that waits for this dump."""
        undo.enter_context(self.context.locks.cutting_off(self.operation))
        handover = self.context.handovers.take(self.source.container.id)
        if handover is not None:
            undo.callback(handover.dump_ended)
        return handover

    async def _still_alone(self) -> None:
        """Refuse, in the pause, to cut off a container that was started since preflight."""
        starts, cri = self.context.locks.starts(), self.context.cri
        if await resolve.neighbours(self.source.container, cri=cri, starts=starts):
            raise Precondition(
                "another container of the pod was started meanwhile, and stopping this one would "
                "cut it off",
                hint="checkpoint it without stopping it",
            )
