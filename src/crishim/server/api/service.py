"""Serve `crishim.v1.CheckpointRestore`: proto messages in and out, the flows in between.

A method reads its request, starts a flow and reports its phases; what a flow does stands in
`crishim.dump` and `crishim.restore`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from crishim._proto.crishim.v1 import crishim_pb2, crishim_pb2_grpc
from crishim.aio.shield import in_thread
from crishim.doctor.answer import doctor_response
from crishim.dump.request import DumpRequest
from crishim.errors import InvalidRequest
from crishim.flow.phases import Phases
from crishim.ids import checkpoint_name, container_id
from crishim.modes import AddressMode, OnFailure, TcpMode
from crishim.restore.options import RestoreOptions
from crishim.restore.receive import ReceiveRequest
from crishim.restore.wanted import COLD_NEEDS_POD
from crishim.server.api import messages
from crishim.store.inspect import inspect, summarize

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from crishim.containerd.cri import Cri
    from crishim.doctor.finding import Finding
    from crishim.dump.dumper import Dumper
    from crishim.dump.request import DumpResult
    from crishim.housekeeping.removal import Removal
    from crishim.ids import ContainerId
    from crishim.restore.receive import Receiver
    from crishim.restore.restore import Restorer
    from crishim.sandbox.held import HeldSandboxes
    from crishim.server.calls import Calls
    from crishim.server.guard import Context
    from crishim.store.store import Store

_TCP = {0: None, 1: TcpMode.ESTABLISHED, 2: TcpMode.CLOSE, 3: TcpMode.REFUSE}
_ADDRESS = {0: None, 1: AddressMode.KEEP, 2: AddressMode.NEW}
_ON_FAILURE = {0: OnFailure.FAIL, 1: OnFailure.FAIL, 2: OnFailure.COLD}
_Word = TypeVar("_Word")


class CheckpointRestore(crishim_pb2_grpc.CheckpointRestoreServicer):
    """The servicer; its methods run inside the guard.

    Args:
        timeout_s: deadline of calls that name none.
        removal: removes checkpoints from the store.
        examine: examines the node for Doctor.
    """

    def __init__(
        self,
        *,
        cri: Cri,
        held: HeldSandboxes,
        dumper: Dumper,
        restorer: Restorer,
        receiver: Receiver,
        store: Store,
        calls: Calls,
        timeout_s: float,
        removal: Removal,
        examine: Callable[[], Awaitable[list[Finding]]],
    ) -> None:
        self._calls = calls
        self._cri = cri
        self._held = held
        self._dumper = dumper
        self._restorer = restorer
        self._receiver = receiver
        self._store = store
        self._timeout_s = timeout_s
        self._removal = removal
        self._examine = examine

    async def CheckpointContainer(
        self, request: crishim_pb2.CheckpointContainerRequest, context: Context
    ) -> AsyncIterator[crishim_pb2.CheckpointContainerProgress]:
        """Dump a container; stream the phases, then the result."""
        if request.output_path and request.name:
            raise InvalidRequest("give an output path or a name in the store, not both")
        await self._refuse_image(request.name)
        wanted = DumpRequest(
            container=container_id(request.container_id),
            output=_absolute(request.output_path) if request.output_path else None,
            name=checkpoint_name(request.name) if request.name else None,
            replace=request.force,
            stop=request.stop,
            tcp=_word(_TCP, request.tcp, "tcp") or TcpMode.ESTABLISHED,
        )

        async def flow(phases: Phases) -> DumpResult:
            with self._calls.must_finish(f"checkpoint of {wanted.container[:13]}"):
                return await self._dumper.dump(wanted, phases)

        async for event in self._run(request.timeout_s, flow):
            if isinstance(event, crishim_pb2.Phase):
                yield crishim_pb2.CheckpointContainerProgress(phase=event)
            else:
                result = messages.checkpoint_result(event, store=self._store)
                yield crishim_pb2.CheckpointContainerProgress(result=result)

    async def _refuse_image(self, name: str) -> None:
        """Refuse a checkpoint the name of an image: who creates a container by it means which?"""
        if ":" in name or (name and await self._cri.image_id(name)):
            raise InvalidRequest(
                f"{name[:80]!r} names an image", hint="a checkpoint needs a name of its own"
            )

    async def RestoreContainer(
        self, request: crishim_pb2.RestoreContainerRequest, context: Context
    ) -> AsyncIterator[crishim_pb2.RestoreContainerProgress]:
        """Restore into a created container; stream the phases, then the result."""
        container = (await self._cri.container(request.container_id)).id
        options = RestoreOptions(
            address=_word(_ADDRESS, request.address, "address"),
            tcp=_word(_TCP, request.tcp, "tcp"),
            on_failure=_word(_ON_FAILURE, request.on_failure, "on_failure"),
            allow_privileges=request.allow_privileges,
        )
        if options.on_failure is OnFailure.COLD:
            raise InvalidRequest(COLD_NEEDS_POD)

        if request.source_container_id:
            run = await self._receive(request, container, options)
        else:
            run = await self._restore(request, container, options)

        async def flow(phases: Phases) -> crishim_pb2.RestoreResult:
            return messages.restore_result(container, await run(phases), phases)

        async for event in self._run(request.timeout_s, flow):
            if isinstance(event, crishim_pb2.Phase):
                yield crishim_pb2.RestoreContainerProgress(phase=event)
            else:
                yield crishim_pb2.RestoreContainerProgress(result=event)

    async def _restore(
        self,
        request: crishim_pb2.RestoreContainerRequest,
        container: ContainerId,
        options: RestoreOptions,
    ) -> Callable[[Phases], Awaitable[tuple[str, ...]]]:
        archive = await in_thread(self._store.find, request.checkpoint)

        async def run(phases: Phases) -> tuple[str, ...]:
            with self._calls.must_finish(f"restore of {container[:13]}"):
                await self._restorer.prepare(container, archive, options, phases=phases)
                if not request.start:
                    return ()
                return await self._restorer.start(container, phases=phases)

        return run

    async def _receive(
        self,
        request: crishim_pb2.RestoreContainerRequest,
        container: ContainerId,
        options: RestoreOptions,
    ) -> Callable[[Phases], Awaitable[tuple[str, ...]]]:
        if request.checkpoint or not request.start:
            raise InvalidRequest("with a source container name no checkpoint, and start")
        source = (await self._cri.container(request.source_container_id)).id
        wanted = ReceiveRequest(container=container, source=source, options=options)
        moving = self._calls.must_finish(f"restore of {container[:13]}")
        return lambda phases: self._receiver.receive(wanted, phases=phases, moving=moving)

    async def ListCheckpoints(
        self, request: crishim_pb2.ListCheckpointsRequest, context: Context
    ) -> crishim_pb2.ListCheckpointsResponse:
        """List the store, and what waits."""
        infos = [
            messages.archive_info(await in_thread(summarize, self._store.path(name)), self._store)
            for name in await in_thread(self._store.names)
        ]
        waiting = messages.waiting(self._held.records.all(), self._store)
        return crishim_pb2.ListCheckpointsResponse(checkpoints=infos, waiting=waiting)

    async def InspectCheckpoint(
        self, request: crishim_pb2.InspectCheckpointRequest, context: Context
    ) -> crishim_pb2.InspectCheckpointResponse:
        """Read one archive."""
        archive = await in_thread(self._store.find, request.checkpoint)
        return messages.inspection(await in_thread(inspect, archive), self._store)

    async def RemoveCheckpoint(
        self, request: crishim_pb2.RemoveCheckpointRequest, context: Context
    ) -> crishim_pb2.RemoveCheckpointResponse:
        """Remove one checkpoint from the store, or let go of connections."""
        await self._removal.remove(request.name, force=request.force)
        return crishim_pb2.RemoveCheckpointResponse()

    async def Doctor(
        self, request: crishim_pb2.DoctorRequest, context: Context
    ) -> crishim_pb2.DoctorResponse:
        """Examine the node."""
        return doctor_response(await self._examine())

    async def _run(
        self, timeout_s: int, flow: Callable[[Phases], Awaitable[Any]]
    ) -> AsyncIterator[Any]:
        """Yield each phase of a flow as it begins, then what the flow returned.

        On close (the caller went away) the flow is cancelled and waited for: its undo must run.
        """
        if timeout_s < 0:
            raise InvalidRequest("timeout_s must not be negative")
        queue: asyncio.Queue[crishim_pb2.Phase | None] = asyncio.Queue()

        def listener(name: str, elapsed_us: int, done: int, total: int) -> None:
            queue.put_nowait(
                crishim_pb2.Phase(
                    name=name, elapsed_us=elapsed_us, bytes_done=done, bytes_total=total
                )
            )

        phases = Phases(timeout_s=timeout_s or self._timeout_s, listener=listener)
        task = asyncio.ensure_future(flow(phases))
        task.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (event := await queue.get()) is not None:
                yield event
            yield await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _absolute(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute() or ".." in path.parts:
        raise InvalidRequest(f"{text[:200]!r} is not a clean absolute path")
    return path


def _word(words: dict[int, _Word], value: int, name: str) -> _Word:
    if value not in words:
        raise InvalidRequest(f"{name} has no value {value}")
    return words[value]
