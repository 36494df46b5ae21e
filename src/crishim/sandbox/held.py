"""Containers that a dump stopped: from its announcement until their sandbox is gone.

A container that a kubelet manages stays frozen until the kubelet stops it, because it would start
again what ends by itself. Each stopped container is on record before its archive appears, so that a
daemon that starts after a crash knows what was meant. Whether the archive then appeared is decided
by evidence only (`evidence`): what nobody can know stays as it is.

Who they are is `heldrecords`, what waits for their restore `heldconnections`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from crishim.aio import patience
from crishim.aio.lanes import Lane
from crishim.aio.shield import in_thread
from crishim.container import dumpnotes
from crishim.errors import Busy, CrishimError, DeadlineExceeded
from crishim.ids import SandboxId, by_prefix
from crishim.network import cni
from crishim.sandbox import evidence, heldprocesses, heldrecord
from crishim.sandbox.evidence import Standing
from crishim.sandbox.heldconnections import HeldConnections
from crishim.sandbox.heldrecord import HeldRecord, HeldState, Waits
from crishim.sandbox.heldrecords import HeldRecords

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from crishim.containerd.cri import Cri, Sandbox
    from crishim.ids import ContainerId
    from crishim.kernel.net.interface import InterfaceState
    from crishim.network import hold
    from crishim.paths import Paths
    from crishim.sandbox.heldrecord import HeldContainer

_log = logging.getLogger(__name__)
_END_TIMEOUT_S = 20.0
_POLL_S = 0.01


class HeldSandboxes:
    """All sandboxes of the node with a stopped container.

    Attributes: records: who they are. connections: what waits for their restore.
    """

    def __init__(self, paths: Paths, cri: Cri) -> None:
        self._paths = paths
        self._cri = cri
        self.records = HeldRecords(paths)
        self.connections = HeldConnections(self.records)
        self._told: set[ContainerId] = set()
        self._syncing: dict[ContainerId, asyncio.Future[None]] = {}

    async def announce(
        self,
        sandbox: Sandbox,
        containers: Sequence[HeldContainer],
        caught: hold.SourceHold | None,
        interfaces: tuple[InterfaceState, ...],
    ) -> HeldRecord:
        """Write down that containers of a pod end for good once their archives have appeared.

        Args: caught: holds their connections; None for a pod that has none to hold.
        Returns: the record for `committed`; without that call only a later daemon looks at it.
        Raises: Busy: another one of the pod was stopped. NoSpace, Precondition: as the disk says.
        """
        if self.records.of_sandbox(sandbox.id) is not None:
            raise Busy("a container of the pod was stopped by a checkpoint already")
        network = await in_thread(cni.sandbox_network, sandbox.id)
        record = HeldRecord(
            sandbox=sandbox.id,
            containers=tuple(containers),
            netns=sandbox.netns,
            stopped_at_ns=time.time_ns(),
            interfaces=interfaces,
            pod_hold=caught.record if caught else None,
            reservations=str(network.reservations or ""),
        ).in_this_boot()
        await self.records.write_ahead(record)
        if caught is not None:
            self.connections.catch(record.sandbox, caught)
        return record

    def committed(self, record: HeldRecord, container: ContainerId) -> None:
        """Take an announcement as valid: the archive has its final name, or may have.

        From here on the source never goes on. Durable the archive is later only (`ending`).
        """
        record = self.records.get(record.sandbox) or record
        self.records.put(record.changed(container, state=HeldState.FROZEN))
        self.connections.share(record.sandbox)

    def stays_frozen(self, record: HeldRecord) -> None:
        """Count containers whose dump has failed, and that nobody could thaw, among the unknown.

        Their hold is somebody else's business; `decide` thaws them, as soon as that can be done.
        """
        self.connections.drop(record.sandbox)
        if self.records.get(record.sandbox) is None:
            self.records.put(record)

    def forget(self, sandbox: SandboxId) -> None:
        """Drop a record, as `HeldConnections.forget`."""
        self.connections.forget(sandbox)

    async def doubt(self, sandbox: SandboxId, container: ContainerId) -> None:
        """Write down that a stopped container's archive may not outlast the node's power.

        No daemon ends the container then; whoever stops it does. That is not taken back: a later
        fsync succeeds, although what the first one could not write is lost.
        """
        async with self.records.locked(sandbox):
            try:
                await self.records.change(sandbox, lambda it: it.changed(container, doubtful=True))
            except OSError:  # the disk is full, perhaps: a record that is there takes the word
                if (record := self.records.get(sandbox)) is not None:
                    await self.records.overwrite(record)

    async def end(self, container: ContainerId) -> None:
        """End the frozen processes of a stopped container and wait until CRI knows.

        They are killed first and thawed then, so not one instruction of theirs runs any more. Those
        that turn out to run, because no archive of theirs ever appeared, are left alone.
        Raises: DeadlineExceeded: containerd did not notice within 20 s.
        """
        if (found := self.records.of_container(container)) is None:
            return
        sandbox = found[0].sandbox
        async with self.records.locked(sandbox) as record:
            if record is None or not (item := record.of(container)).frozen:
                return
            announced = item.state is HeldState.ANNOUNCED
            if announced and await in_thread(heldprocesses.run, item):
                return
            await self.connections.leave_namespace(sandbox)
            await in_thread(heldprocesses.kill, item, lane=Lane.PAUSE)
            await self._wait_ended(container)
            ended = HeldState.ENDED
            await self.records.change(sandbox, lambda it: it.changed(container, state=ended))

    async def sandbox_stops(self, sandbox: SandboxId) -> None:
        """Let the node drop what the sandbox's own hold dropped, before the sandbox goes.

        Raises: as `end`; the node drops all the same.
        """
        async with contextlib.AsyncExitStack() as steps:
            steps.push_async_callback(self.connections.leave_sandbox, sandbox)
            if (record := self.records.get(sandbox)) is not None:
                for item in record.containers:  # each is tried
                    steps.push_async_callback(self.end, item.id)

    def sandbox_removed(self, sandbox: str) -> None:
        """Forget containers whose connections have gone on elsewhere, with their sandbox."""
        found = by_prefix(sandbox, (record.sandbox for record in self.records.all()))
        record = self.records.get(SandboxId(found)) if found is not None else None
        if record is not None and record.waits is Waits.NO_MORE:
            self.forget(record.sandbox)

    async def sweep(self, live: Iterable[str], *, wait_s: float) -> None:
        """Forget what has no sandbox any more; let go of what has waited too long.

        Args: live: ids of all sandboxes. wait_s: how long connections wait for a restore.
        Raises: the last error of those that the records met, each on its own.
        """
        there = set(live)
        self.records.keep_unreadable(there)
        failed: Exception | None = None
        for record in self.records.all():
            gone = record.sandbox not in there
            try:
                await self._look_after(record.sandbox, gone=gone, wait_s=wait_s)
            except (CrishimError, OSError) as error:  # one must not cost the others
                failed = error
        if failed is not None:
            raise failed

    async def _look_after(self, sandbox: SandboxId, *, gone: bool, wait_s: float) -> None:
        connections = self.connections
        if connections.has_gone_on(sandbox):
            await connections.hand_over(sandbox)
        if (record := self.records.get(sandbox)) is None:
            return
        if not record.undecided and record.boot_id != heldrecord.this_boot():
            await self._in_this_boot(sandbox)  # it was read late, or failed at the start
            record = self.records.get(sandbox) or record
        if record.waited_s > wait_s and not connections.is_restoring(sandbox):
            await connections.give_up(sandbox, f"nobody restored them within {wait_s:g} s")
        if (left := self.records.get(sandbox)) is None:
            return
        if left.node_hold is not None:
            await connections.hold_at_node(sandbox)
        elif gone and left.waiting:  # somebody removed it without asking us
            async with self.records.locked(sandbox) as left:
                if left is not None and left.waiting:
                    await connections.node_takes_over(left.all_changed(state=HeldState.ENDED))
        elif gone:
            self.forget(sandbox)

    async def decide(self, sandbox: SandboxId) -> None:
        """Find out what a crash left of stopped containers; may be repeated."""
        if (record := self.records.get(sandbox)) is None:
            return
        for item in record.undecided:
            await self._decide(record, item)
        for item in record.containers:
            await self._note_doubt(sandbox, item.id)
        record = self.records.get(sandbox)
        if record is not None and record.boot_id != heldrecord.this_boot():
            await self._in_this_boot(sandbox)

    async def _decide(self, record: HeldRecord, item: HeldContainer) -> None:
        standing = await self._standing(record, item)
        half = standing is Standing.HALF
        if half or (standing is Standing.UNKNOWN and await in_thread(heldprocesses.run, item)):
            await self._goes_on(record.sandbox, item)
        elif standing is Standing.COMMITTED:
            self.records.state(record.sandbox, item.id, HeldState.FROZEN)
        elif item.id not in self._told:
            self._told.add(item.id)
            _log.error(
                "container %s stays stopped: nobody knows whether its checkpoint %s is whole",
                item.id[:13],
                item.archive,
            )

    async def _note_doubt(self, sandbox: SandboxId, container: ContainerId) -> None:
        """Take over what the daemon that met it had no time, or no disk, to write into a record."""
        found = self.records.of_container(container)
        if found is None or found[1].state is not HeldState.FROZEN:
            return
        if await in_thread(dumpnotes.is_doubtful, self._paths.dump(container)):
            await self.doubt(sandbox, container)

    async def finish(self, sandbox: SandboxId) -> None:
        """End what is still frozen though its archive is whole, unless a kubelet is to.

        The daemon that wrote the archive may have died before it made it durable: that comes first.
        """
        record = self.records.get(sandbox)
        for item in record.containers if record is not None and not record.undecided else ():
            if item.doubtful and item.frozen:
                _log.warning(
                    "container %s stays frozen: %s may not be durable", item.id, item.archive
                )
            elif not item.kubelet:
                if item.frozen and record is not None and record.waits is not Waits.NO_MORE:
                    await self._make_durable(record, item)
                await self.end(item.id)

    async def _make_durable(self, record: HeldRecord, item: HeldContainer) -> None:
        """Make an archive durable before its source ends.

        Raises: OSError, TimeoutError: it is not; looked at again later, unless the disk refused.
        """
        self.records.state(record.sandbox, item.id, HeldState.ANNOUNCED)
        if (answer := self._syncing.get(item.id)) is None:
            # One that has not answered in time is asked for again: only it knows what it has lost.
            answer = patience.begin(lambda: self._sync(item, record.boot_id))
            self._syncing[item.id] = answer
        try:
            await patience.wait(answer)
        except evidence.NotDurable:
            await self.doubt(record.sandbox, item.id)
            self.records.state(record.sandbox, item.id, HeldState.FROZEN)
            raise
        finally:
            if answer.done():
                self._syncing.pop(item.id, None)
        self.records.state(record.sandbox, item.id, HeldState.FROZEN)

    def _sync(self, item: HeldContainer, boot_id: str) -> None:
        try:
            evidence.make_durable(item, boot_id=boot_id)
        except evidence.NotDurable:
            dumpnotes.note_doubt(self._paths.dump(item.id))
            raise

    async def _goes_on(self, sandbox: SandboxId, item: HeldContainer) -> None:
        """Let a container go on that was to be stopped: its archive has never appeared.

        Where others of its pod stay, so does their hold. The record goes last: what fails here is
        tried again.
        """
        await in_thread(heldprocesses.thaw, item, lane=Lane.PAUSE)
        async with self.records.locked(sandbox) as record:
            if record is None:
                return
            others = tuple(other for other in record.containers if other.id != item.id)
            if others:
                await self.records.change(sandbox, lambda it: replace(it, containers=others))
            else:
                await self.connections.let_go(record)
                self.forget(sandbox)
        _log.warning("container %s goes on: its checkpoint was not taken", item.id[:13])
        await self.records.forgotten_for_good()

    async def _in_this_boot(self, sandbox: SandboxId) -> None:
        """Go on waiting after a boot of the node, which has ended all processes and holds.

        How long the node was down nobody knows for certain, so the time begins anew. A record that
        an older version wrote says nothing of its boot, and belongs to this one.
        """
        async with self.records.locked(sandbox) as record:
            if record is None:
                return
            rebooted = bool(record.boot_id)
            record = record.in_this_boot()
            if rebooted:
                record = record.all_changed(state=HeldState.ENDED)
            if rebooted and record.waiting:
                await self.connections.node_takes_over(record)
            else:
                await self.records.change(sandbox, lambda _: record)

    async def _standing(self, record: HeldRecord, item: HeldContainer) -> Standing:
        """Return what is known of a container's archive; its disk may be one that never answers.

        The note of a half archive counts in the boot that wrote it: its removal is not durable, and
        a power cut may bring it back.
        """
        boot_id, note = record.boot_id, self._paths.dump(item.id)
        if boot_id == heldrecord.this_boot() and await in_thread(dumpnotes.is_half, note):
            return Standing.HALF
        try:
            return await patience.look(lambda: evidence.standing(item, boot_id=boot_id))
        except (TimeoutError, OSError) as error:
            _log.warning("%s cannot be looked at: %s", item.archive, str(error) or "no answer")
            return Standing.UNKNOWN

    async def _wait_ended(self, container: ContainerId) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_TIMEOUT_S):
                while (await self._cri.container(container)).running:  # noqa: ASYNC110
                    await asyncio.sleep(_POLL_S)  # CRI has no call that waits for an exit
                return
        raise DeadlineExceeded(
            f"container {container[:13]} was ended, but containerd still calls it running"
        )
