"""Restore a checkpoint into a created container: prepare it, then start it.

    prepare, before the container is started      undo
      open      index, manifest                   -
      compare   platform, mounts, runtime, rights -
      images    mount or unpack them              unmounted, removed
      verify    digests                           -
      layer     write it into the new snapshot    the caller removes the container
      log       let it begin with the old one     -
      exchange  the record names our wrapper      the record is created again

    start, instead of a plain start               undo
      (a pod's mark says that it begins)          turned back
      address   hold, give the pod its address    put back, hold ended
      restore   containerd starts the wrapper     the plan stays: the next start restores again
      release   connections go on                 -
      finish    mark, plan and images are used up -

A failed restore never becomes a cold start by itself: an empty database in place of a full one is
the worst outcome there is.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crishim.aio.shield import in_thread, made_in_thread, to_the_end, unbroken
from crishim.archive.reader import ArchiveReader
from crishim.errors import NotFound, Precondition, final_refusals
from crishim.ids import ContainerId, sandbox_id
from crishim.kernel import tree
from crishim.modes import AddressMode, OnFailure
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
from crishim.restore.options import plan_of
from crishim.restore.preparations import Claimant
from crishim.restore.revive import kept_if_unsettled
from crishim.tools import runc as runcs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from crishim.archive.manifest import Manifest
    from crishim.containerd.cri import Container
    from crishim.flow.locks import Operation
    from crishim.flow.phases import Phases
    from crishim.flow.turns import Turns
    from crishim.restore.context import RestoreContext
    from crishim.restore.leftovers import Leftovers
    from crishim.restore.options import RestoreOptions
    from crishim.restore.preparations import Preparations
    from crishim.restore.preparing import Preparing

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Restorer:
    """Restores containers; one object serves the daemon."""

    context: RestoreContext
    leftovers: Leftovers
    preparations: Preparations
    turns: Turns
    preparing: Preparing

    async def prepare(
        self, container: ContainerId, archive: Path, options: RestoreOptions, *, phases: Phases
    ) -> None:
        """Get a created container ready: its next start restores the archive.

        Raises:
            NotFound: no such container or archive.
            Precondition, Unsupported: the container was started, does not fit, or uses another
                runtime than runc; the archive may have been written by others.
            Corrupt: the archive is damaged. NoSpace: its images do not fit.
        On failure or cancel: the container is as it was, but for files of the layer.
        """
        created = await self.context.cri.container(container)
        await self.context.locks.recovered.wait(container, created.sandbox)
        with (
            self.context.locks.hold(container, "restore", sandbox=created.sandbox) as operation,
            operation.gives_way(),
            self.preparing.of(container, archive),
        ):
            await unbroken(self._prepare(created, archive, options, phases))

    async def _prepare(
        self, created: Container, path: Path, options: RestoreOptions, phases: Phases
    ) -> None:
        container = created.id
        directory = self.context.paths.restore(container)
        async with contextlib.AsyncExitStack() as undo:
            with phases.step("open"):
                archive = await made_in_thread(
                    undo, lambda: ArchiveReader.open(path), ArchiveReader.close
                )
                manifest = await in_thread(archive.manifest)
                phases.lose(manifest.losses)
            with phases.step("compare"):
                if await in_thread(plans.read, directory) is not None:
                    raise Precondition(f"a checkpoint waits for container {container[:13]} already")
                runc = await self.context.resolver.runc(container)
                facts = await runcs.facts(runc.binary)
                plan = await self._compare(created, archive, manifest, options)
                await pids.make_room(created.spec, pids.of_archive(archive.members))
            undo.push_async_exit(self.leftovers.undo_preparation(container))
            async with self.preparations.ready(archive, _claimant(plan), phases) as prepared:
                async with self.turns.take(phases):
                    with phases.step("layer"):
                        await in_thread(tree.make_private_dir, directory)
                        await in_thread(tree.make_private_dir, directory / "work")
                        await contents.write_files(created, archive, context=self.context)
                    with phases.step("log"):
                        await contents.carry_log(created, archive)
                images = await prepared.take(directory / "images")
            with phases.step("exchange", deadline=False):
                await arm(
                    container,
                    plan,
                    images=images,
                    runc=runc,
                    facts=facts,
                    context=self.context,
                    arrange=lambda: putback.arrange(directory, archive),
                )

    async def _compare(
        self,
        created: Container,
        archive: ArchiveReader,
        manifest: Manifest,
        options: RestoreOptions,
    ) -> plans.RestorePlan:
        """Refuse what does not fit; a refusal here is for good."""
        pod = await self.context.cri.sandbox(created.sandbox)
        uid = pod.status.metadata.uid
        with final_refusals():
            compare.check(created, manifest, archive.path)
            plan = plan_of(created, archive.path, manifest, options, pod_uid=uid)
            if not options.allow_privileges:
                found = await in_thread(rights_read.of_archive, archive)
                on_node = compare.node_namespaces(created.spec, pod)
                rights.check(found, created.spec, on_node=on_node)
        return plan

    async def start(self, container: ContainerId, *, phases: Phases) -> tuple[str, ...]:
        """Restore a prepared container; it runs when this returns.

        Returns: the addresses of its pod that were kept; none for new ones.
        Raises:
            AlreadyExists: somebody else has the address.
            ToolFailed: CRIU's last errors; its log is kept. The next start tries again.
            Busy: its container or its pod is being stopped, and was in time to undo it.
        On cancel: it goes on to its end all the same: containerd would end a half restored task.
        """
        plan = plans.read(self.context.paths.restore(container))
        if plan is None:
            raise NotFound(f"no checkpoint waits for container {container[:13]}")
        sandbox = sandbox_id(plan.sandbox)
        await self.context.locks.recovered.wait(container, sandbox)
        with self.context.locks.hold(
            container, "restore", sandbox=sandbox, alone=True
        ) as operation:
            return await to_the_end(self._start(operation, plan, phases))

    async def _start(
        self, operation: Operation, plan: plans.RestorePlan, phases: Phases
    ) -> tuple[str, ...]:
        container = operation.container
        states = plan.states()
        kept = states if plan.address is AddressMode.KEEP else ()
        async with contextlib.AsyncExitStack() as undo:
            undo.push_async_exit(self._given_up(plan))
            if plan.once:
                await self._begin(container, plan, undo)
            with phases.step("address"):
                arrival = await self.context.addresses.arrive(
                    sandbox_id(plan.sandbox), kept, by_pod=plan.once
                )
                if arrival is not None:
                    undo.push_async_callback(arrival.undo)
            with phases.step("restore"):
                phases.lose(plan.told())
                run = self.context.reviver.run(container, operation=operation, arrival=arrival)
                phases.lose(await kept_if_unsettled(run, undo, arrival))
            undo.pop_all()
        await self.context.reviver.go_forward(container, arrival, phases=phases)
        return tuple(address for state in kept for address in state.global_addresses)

    async def _begin(
        self, container: ContainerId, plan: plans.RestorePlan, undo: contextlib.AsyncExitStack
    ) -> None:
        """Remember the restore of a pod's container before it can have begun."""
        pod_uid, name = plan.pod_uid, plan.container_name
        restored = self.context.restored

        async def turn_back() -> None:
            try:
                await in_thread(lambda: restored.turn_back(pod_uid=pod_uid, container=name))
            except OSError as error:
                _log.warning("the failure of %s's restore is not on record: %s", name, error)

        undo.push_async_callback(turn_back)
        await in_thread(lambda: restored.begin(pod_uid=pod_uid, container=name, into=container))

    def _given_up(self, plan: plans.RestorePlan) -> Callable[..., Awaitable[None]]:
        """Return what gives a restore up that failed for good, if its pod prefers a cold start."""

        async def mark(_: object, error: BaseException | None, __: object) -> None:
            if error is not None and plan.once and plan.on_failure is OnFailure.COLD:
                failed = functools.partial(
                    self.context.restored.failed, error, archive=Path(plan.archive)
                )
                uid, name = plan.pod_uid, plan.container_name
                await in_thread(lambda: failed(pod_uid=uid, container=name))

        return mark


def _claimant(plan: plans.RestorePlan) -> Claimant | None:
    """Return who comes again when a create takes too long: a kubelet, for a pod of its own."""
    if not plan.once:
        return None
    return Claimant(pod_uid=plan.pod_uid, container=plan.container_name, sandbox=plan.sandbox)
