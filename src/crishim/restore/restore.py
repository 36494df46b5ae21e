"""Restore a checkpoint into a created container: "first the body, then the soul".

    prepare, before the container is started      undo
      open      index, manifest                   -
      compare   platform, mounts, runtime, rights -
      images    mount or unpack them              unmounted, removed
      verify    digests                           -
      layer     write it into the new snapshot    the caller removes the container
      log       let it begin with the old one     -
      exchange  the record names our wrapper      the record is created again

    start, instead of a plain start               undo
      address   hold, give the pod its address    put back, hold ended
      restore   containerd starts the wrapper     the plan stays: the next start restores again
      release   connections go on                 -

A failed restore never becomes a cold start by itself: an empty database in place of a full one is
the worst outcome there is.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from crishim._proto.runtime.v1 import api_pb2
from crishim.aio.lanes import Lane
from crishim.aio.shield import in_thread, made_in_thread, to_the_end, unbroken
from crishim.archive.reader import ArchiveReader
from crishim.container import logs, shm, volumes
from crishim.container.resolve import runc_of
from crishim.errors import (
    Busy,
    CrishimError,
    NotFound,
    Precondition,
    RuntimeNotFound,
    RuntimeRefused,
    final_refusals,
)
from crishim.ids import ContainerId, SandboxId, by_prefix, sandbox_id
from crishim.kernel import atomic, files, tree
from crishim.layer.apply import apply_layer, overlay_of_snapshot
from crishim.oci import devices
from crishim.restore import compare, pids, plans, putback, rights, rights_read, swap
from crishim.restore.images import ImageDirectories, remove_images
from crishim.restore.ownfiles import apply_volumes
from crishim.restore.preparations import Claimant
from crishim.restore.settle import Unsettled, settled
from crishim.restore.shm import apply_shared_memory
from crishim.tools import criu
from crishim.tools import runc as runcs
from crishim.words import AddressMode, OnFailure, TcpMode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from crishim.archive.manifest import Manifest
    from crishim.containerd.cri import Container, Cri
    from crishim.containerd.records import Records
    from crishim.flow.locks import Locks, Operation
    from crishim.flow.phases import Phases
    from crishim.flow.turns import Turns
    from crishim.paths import Paths
    from crishim.restore.preparations import Preparations
    from crishim.restore.preparing import Preparing
    from crishim.restore.restored import Restored
    from crishim.restore.revive import Reviver
    from crishim.sandbox.addresses import PreservedAddresses
    from crishim.sandbox.arrival import Arrival

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
_LEAVING_S = 30.0
"""How long the stop of a pod waits for a CRIU that containerd has left at work in it."""
_TCP_OPTIONS: dict[TcpMode, list[str]] = {
    TcpMode.ESTABLISHED: ["--tcp-established"],
    TcpMode.CLOSE: [],  # a word of CRIU's configuration
    TcpMode.REFUSE: [],  # CRIU refuses an open connection without the option
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreOptions:
    """What a caller asks for; None stands for the default.

    Attributes:
        address: by default kept if the dump ended its source.
        tcp: by default established if the address is kept.
        once: the pod named the checkpoint, for the first start of that container only.
        allow_privileges: processes may have more rights than the container's specification gives.
    """

    address: AddressMode | None = None
    tcp: TcpMode | None = None
    on_failure: OnFailure = OnFailure.FAIL
    once: bool = False
    allow_privileges: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Restorer:
    """Restores containers; one object serves the daemon."""

    cri: Cri
    records: Records
    paths: Paths
    namespace: str
    sandboxes: PreservedAddresses
    locks: Locks
    images: ImageDirectories
    preparations: Preparations
    turns: Turns
    restored: Restored
    reviver: Reviver
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
        created = await self.cri.container(container)
        await self.locks.recovered.wait(container, created.sandbox)
        with (
            self.locks.hold(container, "restore", sandbox=created.sandbox) as operation,
            operation.gives_way(),
            self.preparing.of(container, archive),
        ):
            await unbroken(self._prepare(created, archive, options, phases))

    async def _prepare(
        self, created: Container, path: Path, options: RestoreOptions, phases: Phases
    ) -> None:
        container = created.id
        directory = self.paths.restore(container)
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
                runc = await self.runc_of(created)
                facts = await runcs.facts(runc.binary)
                pod = await self.cri.sandbox(created.sandbox)
                with final_refusals():
                    compare.check(created, manifest, path)
                    plan = plan_of(
                        created, path, manifest, options, pod_uid=pod.status.metadata.uid
                    )
                    if not options.allow_privileges:
                        found = await in_thread(rights_read.of_archive, archive)
                        rights.check(
                            found,
                            created.spec,
                            on_node=compare.node_namespaces(created.spec, pod),
                        )
                await pids.make_room(created.spec, pids.of_archive(archive.members))
            undo.push_async_exit(self.undo_preparation(container))
            async with self.preparations.ready(archive, _claimant(plan), phases) as prepared:
                async with self.turns.take(phases):
                    with phases.step("layer"):
                        await in_thread(tree.make_private_dir, directory)
                        await in_thread(tree.make_private_dir, directory / "work")
                        await self.write_files(created, archive)
                    with phases.step("log"):
                        await self._carry_log(created, archive)
                images = await prepared.take(directory / "images")
            with phases.step("exchange", deadline=False):
                wrapper = await in_thread(
                    lambda: plans.write(
                        directory,
                        plan=plan,
                        runc=runc.binary,
                        options=runc_options(directory, images, plan, facts),
                        criu_config=criu.restore_config(tcp_close=plan.tcp is TcpMode.CLOSE)
                        + putback.arrange(directory, archive),
                    )
                )
                await to_the_end(swap.exchange(container, records=self.records, wrapper=wrapper))

    async def _carry_log(self, created: Container, archive: ArchiveReader) -> None:
        if created.status.log_path:
            await in_thread(logs.carry, archive, Path(created.status.log_path), lane=Lane.BULK)

    async def runc_of(self, created: Container) -> runcs.Runc:
        """Return the runc that containerd's shim uses for a container."""
        record = await self.records.container(created.id)
        return runc_of(record, paths=self.paths, namespace=self.namespace)

    async def write_files(
        self, created: Container, archive: ArchiveReader, *, lane: Lane = Lane.BULK
    ) -> None:
        """Write an archive's layer into the snapshot of a container that has no task yet.

        And the volumes of its image into the container's own, and shared memory into the pod's.
        """
        mounts = await self.records.mounts(
            snapshotter=created.snapshotter, key=created.snapshot_key
        )
        overlay = overlay_of_snapshot([(m.type, m.source, m.options) for m in mounts])
        allowed = devices.allowed(created.spec)
        own = volumes.of_container(created.spec, created.id)

        def write() -> None:
            apply_layer(archive, overlay, device_allowed=allowed)
            destinations = archive.manifest().image_volumes
            apply_volumes(archive, destinations, own, device_allowed=allowed)

        await in_thread(write, lane=lane)
        if shm.MEMBER in archive.members:
            others = await self.cri.containers(created.sandbox)
            shared = any(other.state == api_pb2.CONTAINER_RUNNING for other in others)
            await in_thread(
                lambda: apply_shared_memory(archive, created.spec, shared=shared), lane=lane
            )

    def undo_preparation(
        self, container: ContainerId
    ) -> Callable[[type[BaseException] | None, object, object], Awaitable[None]]:
        """Return what an exit stack calls: after a failure it undoes a preparation."""

        async def undo(kind: type[BaseException] | None, *_: object) -> None:
            if kind is not None:
                await to_the_end(self._undo_preparation(container))

        return undo

    async def _undo_preparation(self, container: ContainerId) -> None:
        """Leave nothing that could be restored; what cannot be put back now stays for `sweep`."""
        directory = self.paths.restore(container)
        try:
            if directory.exists():
                await in_thread(plans.finish, directory)
                await swap.recover(directory, records=self.records)
                await self.removed(container)
        except Exception:  # noqa: BLE001 - the caller is told of the failure that it is undone for
            _log.exception("what was prepared for container %s stays", container[:13])

    def waits(self, container: str) -> ContainerId | None:
        """Return the full id of a container whose start is to be a restore; None otherwise."""
        directory = self._directory_of(container)
        if directory is None or plans.read(directory) is None:
            return None
        return ContainerId(directory.name)

    async def start(self, container: ContainerId, *, phases: Phases) -> tuple[str, ...]:
        """Restore a prepared container; it runs when this returns.

        Returns: the addresses of its pod that were kept; none for new ones.
        Raises:
            AlreadyExists: somebody else has the address.
            ToolFailed: CRIU's last errors; its log is kept. The next start tries again.
            Busy: its container or its pod is being stopped, and was in time to undo it.
        On cancel: it goes on to its end all the same: containerd would end a half restored task.
        """
        plan = plans.read(self.paths.restore(container))
        if plan is None:
            raise NotFound(f"no checkpoint waits for container {container[:13]}")
        sandbox = sandbox_id(plan.sandbox)
        await self.locks.recovered.wait(container, sandbox)
        with self.locks.hold(container, "restore", sandbox=sandbox, alone=True) as operation:
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
                arrival = await self.sandboxes.arrive(
                    sandbox_id(plan.sandbox), kept, by_pod=plan.once
                )
                if arrival is not None:
                    undo.push_async_callback(arrival.undo)
            with phases.step("restore"):
                phases.lose(plan.told())
                run = self.reviver.run(container, operation=operation, arrival=arrival)
                phases.lose(await kept_if_unsettled(run, undo, arrival))
            undo.pop_all()
        try:
            if arrival is not None:
                with phases.step("release", deadline=False):
                    await arrival.release()
        finally:
            with phases.step("finish", deadline=False):
                await self.reviver.finish(container)
                await self.reviver.tell(container, phases)
        return tuple(address for state in kept for address in state.global_addresses)

    async def _begin(
        self, container: ContainerId, plan: plans.RestorePlan, undo: contextlib.AsyncExitStack
    ) -> None:
        """Remember the restore of a pod's container before it can have begun."""
        pod_uid, name = plan.pod_uid, plan.container_name
        restored = self.restored

        async def turn_back() -> None:
            try:
                await in_thread(lambda: restored.turn_back(pod_uid=pod_uid, container=name))
            except OSError as error:
                _log.warning("the failure of %s's restore is not on record: %s", name, error)

        undo.push_async_callback(turn_back)
        await in_thread(lambda: restored.begin(pod_uid=pod_uid, container=name, body=container))

    async def settle(self, container: ContainerId, *, pod_uid: str, name: str) -> bool:
        """Find out whether a restore succeeded that nobody could write the end of.

        One that was broken off did not, although its processes have run behind their hold.
        Args: container: in which it was. pod_uid, name: of the pod and container that ask.
        Raises: Busy, Unavailable: it goes on, or may. Precondition: nobody knows.
        """
        if self.locks.busy(container):
            raise Busy(f"a restore of container {container[:13]} is under way")
        try:
            await settled(self.paths.restore(container), wait_s=0)
            status = (await self.cri.container(container)).status
        except RuntimeNotFound:
            raise Precondition(
                f"container {name} was being restored when crishim ended, and it is not known "
                "whether it has run since: it is neither restored again nor started cold",
                hint="delete the pod, and make a new one that names the checkpoint",
            ) from None
        if status.state == api_pb2.CONTAINER_UNKNOWN:
            raise Unsettled(f"containerd does not know whether container {container[:13]} runs")
        broken_off = await self.reviver.ended_if_broken_off(container)
        ran = bool(status.started_at) and not broken_off
        write = self.restored.mark if ran else self.restored.turn_back
        await in_thread(lambda: write(pod_uid=pod_uid, container=name))
        return ran

    async def pod_leaves(self, named: str) -> None:
        """Settle what a restore has left in a pod that its caller owns and whose sandbox goes.

        Raises: Unavailable, Corrupt, RuntimeRefused: nobody knows whether its processes run;
            their address stays behind its hold.
        """
        sandbox = SandboxId(named)
        if not self.sandboxes.in_doubt(sandbox):
            return
        arrived = False
        for item in await self.cri.containers(sandbox):
            directory = self.paths.restore(ContainerId(item.id))
            if files.is_there(directory):
                await settled(directory, wait_s=_LEAVING_S)
                arrived = await self.reviver.has_arrived(directory) or arrived
        await self.sandboxes.recover(sandbox, arrived=arrived)

    def _given_up(self, plan: plans.RestorePlan) -> Callable[..., Awaitable[None]]:
        """Return what gives a restore up that failed for good, if its pod prefers a cold start."""

        async def mark(_: object, error: BaseException | None, __: object) -> None:
            if error is not None and plan.once and plan.on_failure is OnFailure.COLD:
                failed = functools.partial(self.restored.failed, error, archive=Path(plan.archive))
                uid, name = plan.pod_uid, plan.container_name
                await in_thread(lambda: failed(pod_uid=uid, container=name))

        return mark

    async def sweep(self) -> None:
        """Clear up after containers and pods that are gone, whoever removed them."""
        directories = files.entries(self.paths.restores)
        left = {item.id for item in await self.cri.containers()}
        for path in directories:
            if path.name not in left and not self.locks.busy(path.name):
                try:
                    await self._sweep(path)
                except (CrishimError, OSError, RuntimeRefused) as error:
                    # One that cannot be cleared up must not keep the others.
                    _log.warning("%s stays: %s", path, error)
        await self.preparations.sweep()
        uids = {item.metadata.uid for item in await self.cri.sandboxes()}
        await in_thread(self.restored.sweep, uids)

    async def _sweep(self, directory: Path) -> None:
        """Clear up after a container that CRI does not know, unless containerd has its record.

        One whose record an exchange left missing comes back when containerd starts again.
        """
        await swap.recover(directory, records=self.records)
        if not await self.records.exists(ContainerId(directory.name)):
            await self.removed(directory.name)

    async def removed(self, container: str) -> None:
        """Clear up after a container that is gone; nothing to do for others."""
        directory = self._directory_of(container)
        if directory is not None:
            await in_thread(plans.finish, directory, lane=Lane.PAUSE)
            await in_thread(remove_images, directory / "images", lane=Lane.PAUSE)
            await in_thread(tree.remove_tree, directory, lane=Lane.PAUSE)

    def _directory_of(self, container: str) -> Path | None:
        """Return the directory of a container by its id or the first digits; None without one.

        Raises: Precondition: nobody can tell.
        """
        with atomic.storage_errors("cannot tell whether a restore waits"):
            there = files.entries(self.paths.restores)
        found = by_prefix(container, (path.name for path in there))
        return None if found is None else self.paths.restores / found


async def kept_if_unsettled(
    run: Awaitable[_T], undo: contextlib.AsyncExitStack, arrival: Arrival | None
) -> _T:
    """Await a restore; undo nothing where nobody knows whether its processes run."""
    try:
        return await run
    except Unsettled:
        undo.pop_all()
        if arrival is not None:
            await arrival.leave()
        raise


def _claimant(plan: plans.RestorePlan) -> Claimant | None:
    """Return who comes again when a create takes too long: a kubelet, for a pod of its own."""
    if not plan.once:
        return None
    return Claimant(pod_uid=plan.pod_uid, container=plan.container_name, sandbox=plan.sandbox)


def plan_of(
    created: Container,
    archive: Path | None,
    manifest: Manifest,
    options: RestoreOptions,
    *,
    pod_uid: str,
) -> plans.RestorePlan:
    """Fill in the defaults: what a running source still owns is not taken from it.

    Args: archive: None while it is still to be taken.
    """
    own = not manifest.options.source_running and manifest.interfaces
    address = options.address or (AddressMode.KEEP if own else AddressMode.NEW)
    kept = address is AddressMode.KEEP
    closed = manifest.options.tcp == TcpMode.CLOSE
    tcp = options.tcp or (TcpMode.ESTABLISHED if kept and not closed else TcpMode.CLOSE)
    if closed and tcp is not TcpMode.CLOSE:
        raise Precondition(
            f"{archive} was written with its connections closed", hint='restore with tcp "close"'
        )
    if tcp is TcpMode.ESTABLISHED and not kept:
        raise Precondition(
            "established connections cannot be kept with a new address",
            hint='ask for address "keep", or for tcp "close"',
        )
    return plans.RestorePlan(
        sandbox=created.sandbox,
        archive=str(archive or ""),
        address=address,
        tcp=tcp,
        on_failure=options.on_failure,
        once=options.once,
        pod_uid=pod_uid,
        container_name=created.status.metadata.name,
        interfaces=manifest.interfaces,
        losses=tuple(asdict(loss) for loss in manifest.losses),
    )


def runc_options(
    directory: Path, images: Path, plan: plans.RestorePlan, facts: runcs.RuncFacts
) -> list[str]:
    """Return the words that a restore's directory gives to `runc restore`."""
    options = ["--image-path", str(images), "--work-path", str(directory / "work")]
    options += ["--manage-cgroups-mode", facts.cgroups_mode, "--file-locks", "--ext-unix-sk"]
    return options + _TCP_OPTIONS[plan.tcp]
