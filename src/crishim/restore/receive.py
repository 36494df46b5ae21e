"""Restore a container's next checkpoint the moment it is there: all else is done before.

    prepare, while the source runs              undo
      compare   both containers, node, rights     -
      address   hold and plan; nothing changes    hold ended
      exchange  the record names our wrapper      the record is created again
      wait      for the pause of the source       -
    move, while CRIU writes the memory
      arrive    the pod gets the address          put back, hold ended
      memory    wait for the archive              -
      images    mount or unpack, layer, log       removed
      restore   containerd starts the wrapper     none: the checkpoint stays for another attempt
      release   connections go on, source ends    -

The archive's digests are not compared: this daemon has computed them a moment ago. It may not be
durable yet when its process runs again; only a power cut could tell, which ends the process too.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crishim.aio.lanes import Lane
from crishim.aio.shield import in_thread, made_in_thread, to_the_end, unbroken
from crishim.archive.reader import ArchiveReader
from crishim.container import describe
from crishim.errors import DeadlineExceeded, InvalidRequest, NotFound, Unsupported
from crishim.kernel import cgroup, tree
from crishim.modes import AddressMode, TcpMode
from crishim.network import address
from crishim.restore import (
    compare,
    contents,
    pids,
    plans,
    putback,
    rights,
    rights_read,
)
from crishim.restore.arm import arm
from crishim.restore.images import image_path, make_image_path, remove_images, warm
from crishim.restore.options import plan_of
from crishim.restore.revive import kept_if_unsettled
from crishim.tools import criu
from crishim.tools import runc as runcs

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from crishim import losses
    from crishim.container.resolve import Source
    from crishim.containerd.cri import Container
    from crishim.flow.handover import Handover, Handovers
    from crishim.flow.locks import Operation
    from crishim.flow.phases import Phases
    from crishim.ids import ContainerId
    from crishim.restore.context import RestoreContext
    from crishim.restore.leftovers import Leftovers
    from crishim.restore.options import RestoreOptions
    from crishim.sandbox.arrival import Arrival


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiveRequest:
    """What a caller asks for.

    Attributes:
        container: created, not started.
        source: a running container of this node, whose next dump with `stop` is restored.
        options: the address is kept, and the connections too.
    """

    container: ContainerId
    source: ContainerId
    options: RestoreOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """Restores checkpoints that are still to be taken; one object serves the daemon."""

    context: RestoreContext
    leftovers: Leftovers
    handovers: Handovers

    async def receive(
        self, request: ReceiveRequest, *, phases: Phases, moving: AbstractContextManager[None]
    ) -> tuple[str, ...]:
        """Make a container ready, wait for the dump of another, restore it.

        Args: moving: entered once the source is paused: from then on it is to be waited for.
        Returns: the addresses of its pod.
        Raises:
            NotFound, Precondition, Unsupported: refused; also if the dump fails.
            Busy: somebody else waits for the source, works on the container or stops its pod.
            DeadlineExceeded: no dump of the source has come to its pause in time.
            ToolFailed: CRIU's last errors; the checkpoint is there and may be restored elsewhere.
        On failure after `exchange` the container cannot be used any more. On cancel: the same; a
        restore that runs goes on to its end, and what it restored stays.
        """
        options = request.options
        if options.address is AddressMode.NEW or options.tcp in (TcpMode.CLOSE, TcpMode.REFUSE):
            raise InvalidRequest("a move keeps the address and the connections")
        locks = self.context.locks
        sandbox = (await self.context.cri.container(request.container)).sandbox
        await locks.recovered.wait(request.container, sandbox)
        with (
            locks.hold(request.container, "restore", sandbox=sandbox, alone=True) as operation,
            self.handovers.expect(request.source) as handover,
        ):
            reception = _Reception(
                self, request, phases=phases, operation=operation, handover=handover
            )
            return await unbroken(reception.run(moving))


class _Reception:
    """One restore that waits for its checkpoint."""

    def __init__(
        self,
        receiver: Receiver,
        request: ReceiveRequest,
        *,
        phases: Phases,
        operation: Operation,
        handover: Handover,
    ) -> None:
        self._context = receiver.context
        self._leftovers = receiver.leftovers
        self._request = request
        self._phases = phases
        self._operation = operation
        self._handover = handover
        self._directory = self._context.paths.restore(request.container)
        self._given: frozenset[str] = frozenset()

    async def run(self, moving: AbstractContextManager[None]) -> tuple[str, ...]:
        """Go through the steps; the module's docstring tells them and their undo."""
        async with contextlib.AsyncExitStack() as stack, contextlib.AsyncExitStack() as undo:
            with self._operation.gives_way():
                created, arrival = await self._make_ready(undo)
                with self._phases.step("wait"):
                    await self._wait()
            stack.enter_context(moving)
            await self._move(created, arrival)
            await to_the_end(self._revive(created, arrival, undo))
        return arrival.addresses

    async def _make_ready(self, undo: contextlib.AsyncExitStack) -> tuple[Container, Arrival]:
        step = self._phases.step
        with step("compare"):
            source, created = await self._resolve()
            plan = await self._plan(source, created)
            freezer = runcs.cgroup_of(source.runc, source.container.id)
            there = cgroup.processes(freezer)
            await pids.make_room(created.spec, pids.of_processes(there))
            pod = await self._context.cri.sandbox(created.sandbox)
            self._given = compare.node_namespaces(created.spec, pod)
            self._refuse_wider(
                created, await in_thread(rights_read.of_processes, there, source.container.spec)
            )
        with step("address"):
            arrival = await self._expect(source, created, plan)
            undo.push_async_callback(lambda: to_the_end(arrival.undo()))
        undo.push_async_exit(self._leftovers.undo_preparation(created.id))
        with step("exchange"):
            await self._exchange(created, plan)
        return created, arrival

    async def _move(self, created: Container, arrival: Arrival) -> None:
        """Follow the source's memory; broken off between the steps if the pod is stopped."""
        step = self._phases.step
        with step("arrive", deadline=False):
            self._operation.refuse_if_asked()
            await arrival.begin()
        with step("memory", deadline=False):
            path, copied = await self._handover.wait_archive()
        with step("images", deadline=False):
            self._operation.refuse_if_asked()
            await self._unpack(created, path, copied)

    async def _revive(
        self, created: Container, arrival: Arrival, undo: contextlib.AsyncExitStack
    ) -> None:
        """Restore; once the processes run there is nothing to undo any more."""
        with self._phases.step("restore", deadline=False):
            await kept_if_unsettled(self._start(created, arrival), undo, arrival)
        self._handover.revived = True
        undo.pop_all()
        await self._context.reviver.go_forward(created.id, arrival, phases=self._phases)

    async def _resolve(self) -> tuple[Source, Container]:
        context, request = self._context, self._request
        source = await context.resolver.source(request.source)
        if source.container.id != request.source:
            raise NotFound(f"{request.source} is not the whole id of a container")
        if source.sandbox.host_network:
            raise Unsupported("a pod on the host's network has no address of its own to keep")
        return source, await context.cri.container(request.container)

    async def _plan(self, source: Source, created: Container) -> plans.RestorePlan:
        """Compare the two as if the checkpoint had been taken now."""
        manifest = describe.manifest(
            source,
            await describe.tools(source),
            describe.Facts(
                frozen_at_ns=0,
                tcp=TcpMode.ESTABLISHED,
                source_running=False,
                interfaces=(await address.read(source.sandbox.netns),),
                freeze_us=0,
                image_bytes=0,
                layer_bytes=0,
                phases_us={},
                criu=criu.DumpStatistics(),
            ),
        )
        compare.check(created, manifest, Path(f"container {source.container.id[:13]}"))
        pod_uid = (await self._context.cri.sandbox(created.sandbox)).status.metadata.uid
        return plan_of(created, None, manifest, self._request.options, pod_uid=pod_uid)

    def _refuse_wider(self, created: Container, found: rights.Rights) -> None:
        if not self._request.options.allow_privileges:
            rights.check(found, created.spec, on_node=self._given)

    async def _exchange(self, created: Container, plan: plans.RestorePlan) -> None:
        runc = await self._context.resolver.runc(created.id)
        images = self._directory / "images"
        await in_thread(tree.make_private_dir, self._directory)
        await in_thread(tree.make_private_dir, self._directory / "work")
        self._handover.image_directory = await in_thread(make_image_path, images)
        facts = await runcs.facts(runc.binary)
        await arm(
            created.id,
            plan,
            images=image_path(images),
            runc=runc,
            facts=facts,
            context=self._context,
        )

    async def _expect(self, source: Source, created: Container, plan: plans.RestorePlan) -> Arrival:
        arrival = await self._context.addresses.expect(
            created.sandbox, plan.states(), source=source.sandbox.id
        )
        if arrival is None:
            raise Unsupported("an earlier container of the pod brought another address")
        return arrival

    async def _wait(self) -> None:
        """Wait for the pause of the source; raise DeadlineExceeded if none comes in time."""
        try:
            async with asyncio.timeout(self._phases.left_s):
                await self._handover.wait_held()
        except TimeoutError:
            source = self._request.source[:13]
            raise DeadlineExceeded(f"nobody has stopped container {source} in time") from None

    async def _start(self, created: Container, arrival: Arrival) -> None:
        """Restore, and have the images read into memory while containerd's shim starts."""
        images = image_path(self._directory / "images")
        warming = asyncio.ensure_future(in_thread(warm, images))
        try:
            reviver = self._context.reviver
            run = reviver.run(created.id, operation=self._operation, arrival=arrival)
            self._phases.lose(await run)
        finally:
            await asyncio.gather(warming, return_exceptions=True)

    async def _unpack(self, created: Container, path: Path, copied: Path | None) -> None:
        """Make the images ready, write layer and log.

        Args: copied: where the dump has put the page images already; None if nowhere.
        """
        async with contextlib.AsyncExitStack() as undo:
            archive = await made_in_thread(
                undo, lambda: ArchiveReader.open(path), ArchiveReader.close, lane=Lane.PAUSE
            )
            await pids.make_room(created.spec, pids.of_archive(archive.members))
            # Its processes may have changed since they were compared.
            self._refuse_wider(
                created, await in_thread(rights_read.of_archive, archive, lane=Lane.PAUSE)
            )
            if copied is None:
                await in_thread(remove_images, self._directory / "images", lane=Lane.PAUSE)
                await self._context.images.make(archive, self._directory / "images")
            else:
                await in_thread(archive.extract_images, copied, lane=Lane.PAUSE)
            self._phases.lose(await in_thread(self._arrange, archive))
            await contents.write_files(created, archive, context=self._context, lane=Lane.PAUSE)
            await contents.carry_log(created, archive, lane=Lane.PAUSE)

    def _arrange(self, archive: ArchiveReader) -> tuple[losses.Loss, ...]:
        """Have CRIU ask for what it drops: its options were written before there was an archive.

        Returns: what the archive has not kept.
        """
        with (self._directory / "criu.conf").open("a", encoding="utf-8") as config:
            config.write(putback.arrange(self._directory, archive))
        return archive.manifest().losses
