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
    pack       small images, metadata, digests; fsync           goes with the half archive
    publish    the archive gets its name                        withdrawn (not with `stop`)
    end        only with `stop`: see `ending`                   none: it goes forward only

A stop or removal of the container or its pod breaks a dump off until the pause; after it they wait.
With `stop` no other container of the pod may start from `preflight` on. What needs no pause is done
in `ready`.

A failure before `publish` leaves the container running as it was and no file under the final name.
CRIU always leaves the processes alive; with `stop` they stay frozen until their archive is durable,
and only then are they ended.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from crishim.aio import quiet
from crishim.aio.lanes import Lane
from crishim.aio.shield import in_thread, to_the_end
from crishim.aio.undo import Undo
from crishim.container import resolve
from crishim.dump.checks import preflight
from crishim.dump.memory import MemoryDump, Written
from crishim.dump.ready import Preparation
from crishim.dump.request import DumpResult
from crishim.errors import Precondition

if TYPE_CHECKING:
    from crishim.container.resolve import Source
    from crishim.dump.ready import Ready, Shared
    from crishim.dump.request import DumpRequest
    from crishim.flow.locks import Operation
    from crishim.flow.phases import Phases


class Dump:
    """One dump under way; `run` it once.

    Args: request: names the output. operation: the lock that is held for the dump.
    """

    def __init__(
        self,
        shared: Shared,
        source: Source,
        request: DumpRequest,
        *,
        operation: Operation,
        phases: Phases,
    ) -> None:
        self._shared = shared
        self._source = source
        self._request = request
        self._operation = operation
        self._phases = phases
        self._made = Preparation(shared, source, request, phases=phases)
        self._pids: list[int] = []

    async def run(self) -> DumpResult:
        """Go through the steps; the module's docstring tells them and their undo."""
        step, stop = self._phases.step, self._request.stop
        async with Undo() as undo:
            self._begin(undo)
            with self._operation.gives_way():
                ready = await self._made.run(undo)
            with quiet.kept():  # no longer: a restore that waits has bulk work of its own then
                with step("pause"):
                    frozen_at_ns = time.time_ns()
                    await self._pause(undo, ready)
                with step("memory"):
                    written = await self._memory(undo, ready, frozen_at_ns)
            if not stop:
                with step("resume", deadline=False):
                    await self._thaw()
                    ready.gate.close()
                    await self._made.connections.release()
            with step("pack", deadline=stop):
                manifest = await ready.packing.run(written, self._phases)
            size = await self._publish(ready)
        return DumpResult(
            archive=ready.packing.writer.target,
            archive_bytes=size,
            manifest=manifest,
            phases=self._phases,
        )

    def _begin(self, undo: Undo) -> None:
        locks, container = self._shared.locks, self._source.container.id
        if self._request.stop:
            undo.enter_context(locks.cutting_off(self._operation))
            self._made.handover = self._shared.handovers.take(container)
        if self._made.handover is not None:
            undo.callback(self._made.handover.dump_ended)

    async def _pause(self, undo: Undo, ready: Ready) -> None:
        ready.guardian.check()
        # Registered first: a cancelled or failed pause may have frozen the container all the same.
        undo.push_async_callback(self._thaw)
        self._pids = await self._made.freezer.freeze(self._made.workspace)
        # A session that was prepared earlier may have begun while queues were run empty.
        await in_thread(preflight.sessions, self._source, self._pids, lane=Lane.PAUSE)

    async def _memory(self, undo: Undo, ready: Ready, frozen_at_ns: int) -> Written:
        await self._made.connections.close(self._pids)
        if self._made.handover is not None:
            self._made.handover.connections_are_held()
        memory = MemoryDump(
            source=self._source,
            workspace=self._made.workspace,
            writer=ready.packing.writer,
            layer=ready.packing.layer,
            shared=self._made.shared_memory,
            pids=self._pids,
            tcp=self._request.tcp,
            trail=ready.packing.trail,
            remaps=ready.remaps,
            gatherer=self._made.gatherer,
            phases=self._phases,
            expected_bytes=ready.expected_bytes,
        )
        beside = self._still_alone() if self._request.stop else None
        image_bytes, log = await memory.run(ready.packing.tools.runc, undo, beside=beside)
        return Written(frozen_at_ns=frozen_at_ns, image_bytes=image_bytes, log=log)

    async def _still_alone(self) -> None:
        """Refuse, in the pause, to cut off a container that was started since preflight."""
        starts, cri = self._shared.locks.starts(), self._shared.cri
        if await resolve.neighbours(self._source.container, cri=cri, starts=starts):
            raise Precondition(
                "another container of the pod was started meanwhile, and stopping this one would "
                "cut it off",
                hint="checkpoint it without stopping it",
            )

    async def _publish(self, ready: Ready) -> int:
        """Let the archive appear; with `stop` this is the point of no return."""
        if ready.ending is not None:
            ready.ending.images = ready.packing.images
            return await to_the_end(ready.ending.run(self._phases))
        writer = ready.packing.writer

        def publish() -> int:
            writer.publish()
            return writer.settle()

        with self._phases.step("publish", deadline=False):
            try:
                return await in_thread(publish, lane=Lane.BULK)
            except BaseException:
                # It may have appeared all the same; whoever asked is told that there is none.
                if await in_thread(writer.appeared, lane=Lane.PAUSE):
                    await in_thread(writer.withdraw, lane=Lane.PAUSE)
                raise

    async def _thaw(self) -> None:
        if not self._made.kept:
            await self._made.freezer.thaw()
