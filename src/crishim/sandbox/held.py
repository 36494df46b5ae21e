"""Containers that a dump stopped, and their connections, until somebody restores them.

Between the end of a container and the restore of its checkpoint no kernel may answer for its
connections. The pod's own hold drops their packets as long as its sandbox exists; a hold of the
node takes over when the sandbox goes, and keeps its addresses from other pods. What was caught
meanwhile waits in memory for the restored pod; after a restart of the daemon the connections live
on, but their clients send again first.

A container that a kubelet manages stays frozen until the kubelet stops it, because it would start
again what ends by itself. Each stopped container has a record on disk, written before its archive
appears, so that a daemon that starts after a crash knows what was meant. Whether the archive then
appeared is decided by evidence only (`heldrecord.standing`): what nobody can know stays as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from crishim.aio import patience
from crishim.aio.lanes import Lane
from crishim.aio.shield import in_thread
from crishim.container import dumpnotes
from crishim.errors import (
    AlreadyExists,
    Busy,
    CrishimError,
    DeadlineExceeded,
    NotFound,
    Precondition,
    Unavailable,
)
from crishim.ids import ContainerId, SandboxId, by_prefix
from crishim.kernel.net import packet, segment
from crishim.network import cni, hold, neighbours, reservation
from crishim.sandbox import heldprocesses, heldrecord
from crishim.sandbox.heldrecord import HeldRecord, Standing
from crishim.sandbox.recordfiles import RecordFiles

if TYPE_CHECKING:
    from collections.abc import Iterable

    from crishim.container.resolve import Source
    from crishim.containerd.cri import Cri
    from crishim.kernel.net.interface import InterfaceState
    from crishim.kernel.net.segment import Frame
    from crishim.paths import Paths

_log = logging.getLogger(__name__)
_END_TIMEOUT_S = 20.0
_POLL_S = 0.01
_CAUGHT_BYTES_MAX = 256 << 20
"""What is caught for all stopped containers of the node together."""


class Held:
    """All stopped containers of the node, by their sandbox."""

    def __init__(self, paths: Paths, cri: Cri) -> None:
        self._paths = paths
        self._cri = cri
        self._records: dict[SandboxId, HeldRecord] = {}
        self._files = RecordFiles(paths.held, paths.held_sandbox, codec=heldrecord.CODEC)
        self._undecided: set[SandboxId] = set()
        self._told: set[SandboxId] = set()
        self._catching: dict[SandboxId, hold.SourceHold] = {}
        self._locks: dict[SandboxId, asyncio.Lock] = {}
        self._restoring: set[SandboxId] = set()
        self._gone_on: set[SandboxId] = set()  # to be handed over to the end
        self._syncing: dict[SandboxId, asyncio.Future[None]] = {}
        self._budget = packet.Budget(_CAUGHT_BYTES_MAX)

    async def keep(
        self,
        source: Source,
        caught: hold.SourceHold | None,
        interfaces: tuple[InterfaceState, ...],
        *,
        archive: Path,
        inode: int,
        device: int = 0,
    ) -> HeldRecord:
        """Write down that a container will be ended for good once its archive has appeared.

        Args: archive, inode, device: where the archive is about to appear, and the file that it
            will be.
        Returns: the record for `committed`; without that call only a later daemon looks at it.
        """
        if self.of_sandbox(source.sandbox.id) is not None:
            raise Busy("a container of the pod was stopped by a checkpoint already")
        network = await in_thread(cni.sandbox_network, source.sandbox.id)
        record = HeldRecord(
            sandbox=source.sandbox.id,
            container=source.container.id,
            archive=str(archive),
            inode=inode,
            netns=source.sandbox.netns,
            runc=source.runc,
            frozen=True,
            kubelet=source.kubelet,
            stopped_at_ns=time.time_ns(),
            interfaces=interfaces,
            pod_hold=caught.record if caught else None,
            reservations=str(network.reservations or ""),
            device=device,
            boot_id=heldrecord.this_boot(),
            stopped_at_boot_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        )
        await in_thread(self._files.write, record.sandbox, record)
        if caught is not None:
            self._catching[record.sandbox] = caught
        return record

    def committed(self, record: HeldRecord) -> None:
        """Take a record as valid: its archive has its final name, or may have.

        From here on the source never goes on. Durable the archive is later only (`ending`).
        """
        self._records[record.sandbox] = record
        if caught := self._catching.get(record.sandbox):
            caught.share(self._budget)

    def stays_frozen(self, record: HeldRecord) -> None:
        """Count a container whose dump has failed, and that nobody could thaw, among the unknown.

        Its hold is somebody else's business; `decide` thaws it, as soon as that can be done.
        """
        self._catching.pop(record.sandbox, None)
        self._add({record.sandbox: record})

    def forget(self, sandbox: SandboxId) -> None:
        """Drop a record; the holds are somebody else's business.

        If its connections may still wait by its words, `forgotten_for_good` is to follow.
        """
        self._records.pop(sandbox, None)
        self._undecided.discard(sandbox)
        self._gone_on.discard(sandbox)
        self._catching.pop(sandbox, None)
        self._files.remove(sandbox)

    async def forgotten_for_good(self) -> None:
        """Have no power cut bring back the records that were dropped.

        After it the node would hold back the addresses of one, and drop what comes to them. Those
        of connections that have gone on elsewhere do no harm.
        """
        await in_thread(self._files.make_removals_durable, lane=Lane.PAUSE)

    def sandboxes(self) -> list[SandboxId]:
        """Return the sandboxes with a stopped container, known or unknown."""
        return [*self._records, *self._files.unreadable]

    def records(self) -> list[HeldRecord]:
        """Return the records of all stopped containers; any thread may ask."""
        return list(self._records.values())

    def tables(self) -> set[str]:
        """Return the names of the nftables tables that stand, or may stand, for good reason."""
        holds = [hold for r in self._records.values() for hold in (r.pod_hold, r.node_hold)]
        holds += [caught.record for caught in self._catching.values()]
        return {item.table for item in holds if item is not None}

    async def doubt(self, sandbox: SandboxId) -> None:
        """Write down that a stopped container's archive may not outlast the node's power.

        No daemon ends the container then; whoever stops it does. That is not taken back: a later
        fsync succeeds, although what the first one could not write is lost.
        """
        record = self._records[sandbox] = replace(self._records[sandbox], doubtful=True)
        async with self._lock(sandbox):
            try:
                await self._write(record)
            except OSError:  # the disk is full, perhaps: a record that is there takes the word
                await in_thread(self._files.overwrite, sandbox, record)

    def of_sandbox(self, sandbox: SandboxId) -> HeldRecord | None:
        """Return the stopped container of a sandbox.

        Raises: Precondition: there is one, but its record cannot be read.
        """
        if not self._files.loaded:
            raise Unavailable("the records of stopped containers cannot be read", hint="try again")
        if sandbox in self._files.unreadable:
            raise Precondition(
                "a container of the pod was stopped by a checkpoint, and its record is damaged or "
                "of a later version",
                hint="restore its checkpoint into a new pod, and remove this one",
            )
        return self._records.get(sandbox)

    def of_container(self, container: str) -> HeldRecord | None:
        """Return the record of a stopped container by its id or the first digits of it."""
        found = by_prefix(container, (record.container for record in self._records.values()))
        return next((r for r in self._records.values() if r.container == found), None)

    def of_archive(self, archive: Path) -> HeldRecord | None:
        """Return the stopped container whose connections wait for the restore of an archive."""
        return next(
            (r for r in self._records.values() if r.archive == str(archive) and r.waiting), None
        )

    def of_addresses(self, addresses: Iterable[str]) -> HeldRecord | None:
        """Return the stopped container whose connections wait for one of these addresses."""
        wanted = set(addresses)
        return next((r for r in self._records.values() if wanted & set(r.waiting)), None)

    async def end(self, sandbox: SandboxId) -> None:
        """End the frozen processes of a stopped container and wait until CRI knows.

        They are killed first and thawed then, so not one instruction of theirs runs any more. Those
        that turn out to run, because no archive of theirs ever appeared, are left alone.
        Raises: DeadlineExceeded: containerd did not notice within 20 s.
        """
        async with self._lock(sandbox):
            record = self._records.get(sandbox)
            if record is None or not record.frozen:
                return
            if sandbox in self._undecided and await in_thread(heldprocesses.run, record):
                return
            if caught := self._catching.get(sandbox):
                await caught.keep()
            await in_thread(heldprocesses.kill, record, lane=Lane.PAUSE)
            await self._wait_ended(record.container)
            await self._write(replace(self._records[sandbox], frozen=False))

    async def sandbox_stops(self, sandbox: SandboxId) -> None:
        """Let the node drop what the sandbox's own hold dropped, before the sandbox goes.

        Raises: as `end`; the node drops all the same.
        """
        async with contextlib.AsyncExitStack() as steps:
            steps.push_async_callback(self._leave_sandbox, sandbox)
            await self.end(sandbox)

    async def _leave_sandbox(self, sandbox: SandboxId) -> None:
        async with self._lock(sandbox), contextlib.AsyncExitStack() as steps:
            record = self._records.get(sandbox)
            if record is not None and record.waiting and sandbox not in self._gone_on:
                steps.push_async_callback(self._node_takes_over, record)
            if caught := self._catching.get(sandbox):
                await caught.keep()

    async def lift_node_hold(self, sandbox: SandboxId) -> None:
        """Stop dropping at the node, once the target's own hold stands and has the address.

        For the time of a restore only: the record keeps the hold. `restore_node_hold` sets it again
        where the restore fails, `hand_over` forgets it where it succeeds.
        """
        self._restoring.add(sandbox)
        record = self._records.get(sandbox)
        if record is None or record.node_hold is None:
            return  # a source that is just being ended has the lock, and must not hold us up
        async with self._lock(sandbox):
            record = self._records.get(sandbox)
            if record is not None and record.node_hold is not None:
                await hold.remove(record.node_hold)

    async def restore_node_hold(self, sandbox: SandboxId) -> None:
        """Drop at the node again, because the restore has failed and another may follow.

        It goes as without that restore: by `hand_over` after the next one, or by `give_up`. Not
        behind the back of `hand_over`: rules that came after it would cut a running pod off.
        """
        async with self._lock(sandbox):
            await self._drop_at_node(sandbox)

    async def _drop_at_node(self, sandbox: SandboxId) -> None:
        record = self._records.get(sandbox)
        if sandbox in self._gone_on or record is None or record.node_hold is None:
            return
        if record.waiting:
            await hold.NodeHold(record.waiting, key=sandbox[:12]).close()

    async def keep_again(self, sandbox: SandboxId) -> None:
        """Keep the addresses from others again, after a failed restore has put them back."""
        self._restoring.discard(sandbox)
        async with self._lock(sandbox):
            record = self._records.get(sandbox)
            if record is None or not record.waiting:
                return
            await self._reserve(record)
            if record.node_hold is None:
                with contextlib.suppress(NotFound, Precondition):  # it goes at this moment
                    for state in record.interfaces:
                        await neighbours.fix(record.netns, state)

    def stop_catching(self, sandbox: SandboxId) -> list[Frame]:
        """Return what was caught, oldest first; clients wait for it, so it is quick."""
        caught = self._catching.get(sandbox)
        return caught.stop_catching() if caught is not None else []

    async def hand_over(self, sandbox: SandboxId) -> None:
        """Give up the connections of a stopped container: they were restored elsewhere.

        The node's hold goes for good, if there is one. Its sandbox, if it is still there, keeps the
        address behind its hold until it is removed; a container that is still frozen is ended when
        its kubelet stops it. The record goes last: after a failure it is to be called again.
        """
        async with self._lock(sandbox):
            record = self._records.get(sandbox)
            if record is None:
                return
            # Another pod has the address: whatever of the rest fails, nobody drops for it again.
            self._gone_on.add(sandbox)
            self._restoring.discard(sandbox)
            if caught := self._catching.pop(sandbox, None):
                await caught.take_frames()
            await neighbours.loosen(record.waiting)
            if record.node_hold is not None:
                await hold.remove(record.node_hold)
            await self._unreserve(record)
            if record.node_hold is not None:
                self.forget(sandbox)  # its sandbox is gone, or stopped for good
                await self.forgotten_for_good()
            else:
                await self._write(replace(record, handed_over=True))
                self._gone_on.discard(sandbox)

    def sandbox_removed(self, sandbox: str) -> None:
        """Forget a container whose connections have gone on elsewhere, with its sandbox."""
        found = by_prefix(sandbox, self._records)
        if found is not None and self._records[SandboxId(found)].handed_over:
            self.forget(SandboxId(found))

    async def give_up(self, sandbox: SandboxId, why: str) -> None:
        """Stop holding connections that nobody will restore on this node.

        Their time is up, somebody lets go of them, or CNI has given their address away. The hold of
        the node goes, as by `hand_over`. Whoever has sent something meanwhile learns it at once, by
        a reset.
        """
        record = self._records.get(sandbox)
        if record is not None and record.waiting:
            _log.warning("connections to %s are let go: %s", ", ".join(record.waiting), why)
            resets = segment.refusals(self.stop_catching(sandbox))
            await in_thread(packet.send_packets, resets)
            await self.hand_over(sandbox)

    async def sweep(self, live: Iterable[str], *, wait_s: float) -> None:
        """Forget what has no sandbox any more; let go of what has waited too long.

        Args: live: ids of all sandboxes. wait_s: how long connections wait for a restore.
        Raises: the last error of those that the records met, each on its own.
        """
        there = set(live)
        self._files.keep_unreadable(there)
        failed: Exception | None = None
        for sandbox in tuple(self._records):
            try:
                await self._look_after(sandbox, gone=sandbox not in there, wait_s=wait_s)
            except (CrishimError, OSError) as error:  # one must not cost the others
                failed = error
        if failed is not None:
            raise failed

    async def _look_after(self, sandbox: SandboxId, *, gone: bool, wait_s: float) -> None:
        if sandbox in self._gone_on:
            await self.hand_over(sandbox)
        if (record := self._records.get(sandbox)) is None:
            return
        if sandbox not in self._undecided and record.boot_id != heldrecord.this_boot():
            await self._in_this_boot(sandbox)  # it was read late, or failed at the start
            record = self._records.get(sandbox, record)
        if record.waited_s > wait_s and sandbox not in self._restoring:
            await self.give_up(sandbox, f"nobody restored them within {wait_s:g} s")
        left = self._records.get(sandbox)
        if left is None:
            return
        if left.waiting and left.node_hold is not None:
            await self._hold_at_node(sandbox)
        elif gone and left.waiting:  # somebody removed it without asking us
            async with self._lock(sandbox):
                if (left := self._records.get(sandbox)) is not None and left.waiting:
                    await self._node_takes_over(replace(left, frozen=False))
        elif gone:
            self.forget(sandbox)

    def load(self) -> None:
        """Read the records that an earlier daemon has left; none is acted upon yet.

        Raises: OSError: their directory cannot be read.
        """
        self._add(self._files.read())

    def load_refused(self) -> None:
        """Read again the records that the disk has not given."""
        self._add(self._files.read_refused())

    def _add(self, found: dict[SandboxId, HeldRecord]) -> None:
        for sandbox, record in found.items():
            if sandbox not in self._records:
                self._records[sandbox] = record
                if record.frozen:
                    self._undecided.add(sandbox)

    @property
    def loaded(self) -> bool:
        """Whether the records that an earlier daemon left could be read."""
        return self._files.loaded

    def fixed(self) -> set[str]:
        """Return the addresses that the node has a hardware address for as long as we hold them."""
        return {a for r in self._records.values() if r.node_hold is None for a in r.waiting}

    async def decide(self, sandbox: SandboxId) -> None:
        """Find out what a crash left of a stopped container; may be repeated."""
        record = self._records.get(sandbox)
        if record is None:
            return
        if sandbox in self._undecided:
            standing = await self._standing(record)
            half = standing is Standing.HALF
            if half or (
                standing is Standing.UNKNOWN and await in_thread(heldprocesses.run, record)
            ):
                await self._goes_on(record)
                return
            if standing is Standing.COMMITTED:
                self._undecided.discard(sandbox)
            elif sandbox not in self._told:
                self._told.add(sandbox)
                _log.error(
                    "container %s stays stopped: nobody knows whether its checkpoint %s is whole",
                    record.container[:13],
                    record.archive,
                )
        if sandbox not in self._undecided:
            record = await self._noted_doubt(record)
        if record.boot_id != heldrecord.this_boot():
            await self._in_this_boot(sandbox)

    async def _noted_doubt(self, record: HeldRecord) -> HeldRecord:
        """Take over what the daemon that met it had no time, or no disk, to write into a record."""
        note = self._paths.dump(record.container)
        if record.frozen and await in_thread(dumpnotes.is_doubtful, note):
            await self.doubt(record.sandbox)
        return self._records[record.sandbox]

    async def finish(self, sandbox: SandboxId) -> None:
        """End what is still frozen though its archive is whole, unless a kubelet is to.

        The daemon that wrote the archive may have died before it made it durable: that comes first.
        """
        record = self._records.get(sandbox)
        if record is None or sandbox in self._undecided:
            return
        if record.doubtful and record.frozen:
            _log.warning(
                "container %s stays frozen: %s may not be durable", record.container, record.archive
            )
        elif not record.kubelet:
            if record.frozen and not record.handed_over:
                await self._make_durable(record)
            await self.end(sandbox)

    async def _make_durable(self, record: HeldRecord) -> None:
        """Make an archive durable before its source ends.

        Raises: OSError, TimeoutError: it is not; looked at again later, unless the disk refused.
        """
        self._undecided.add(record.sandbox)
        if (answer := self._syncing.get(record.sandbox)) is None:
            # One that has not answered in time is asked for again: only it knows what it has lost.
            answer = self._syncing[record.sandbox] = patience.begin(lambda: self._sync(record))
        try:
            await patience.wait(answer)
        except heldrecord.NotDurable:
            await self.doubt(record.sandbox)
            self._undecided.discard(record.sandbox)
            raise
        finally:
            if answer.done():
                self._syncing.pop(record.sandbox, None)
        self._undecided.discard(record.sandbox)

    def _sync(self, record: HeldRecord) -> None:
        try:
            heldrecord.make_durable(record)
        except heldrecord.NotDurable:
            dumpnotes.note_doubt(self._paths.dump(record.container))
            raise

    async def _hold_at_node(self, sandbox: SandboxId) -> None:
        """Have the node drop again what it is to drop, whoever has removed the rules meanwhile."""
        async with self._lock(sandbox):
            if sandbox not in self._restoring:
                await self._drop_at_node(sandbox)

    def is_undecided(self, container: str) -> bool:
        """Return whether nobody knows enough about a container."""
        return any(self._records[item].container == container for item in self._undecided)

    @property
    def unreadable(self) -> frozenset[SandboxId]:
        """The sandboxes with a stopped container whose record cannot be read."""
        return frozenset(self._files.unreadable)

    def unread(self) -> list[Path]:
        """Return the records on disk that say nothing to us, the oldest too; blocks.

        Raises: OSError: nobody knows which there are.
        """
        return self._files.unread()

    @property
    def undecided(self) -> list[SandboxId]:
        """The sandboxes whose stopped container nobody knows enough about."""
        return list(self._undecided)

    @property
    def unended(self) -> list[SandboxId]:
        """The sandboxes with a stopped container to be looked at again, or to be ended by us.

        A kubelet's is ended by the kubelet, and one with a doubtful archive by whoever stops it.
        """
        ours = (
            record.sandbox
            for record in self._records.values()
            if record.frozen and not record.kubelet and not record.doubtful
        )
        return list(dict.fromkeys([*self._undecided, *ours]))

    async def _goes_on(self, record: HeldRecord) -> None:
        """Let a container go on that was to be stopped: its archive has never appeared.

        The record goes last: what fails here is tried again.
        """
        await in_thread(heldprocesses.thaw, record, lane=Lane.PAUSE)
        for standing in (record.pod_hold, record.node_hold):
            if standing is not None:
                await hold.remove(standing)
        await neighbours.loosen(record.waiting)
        self.forget(record.sandbox)
        _log.warning("container %s goes on: its checkpoint was not taken", record.container[:13])
        await self.forgotten_for_good()

    async def _in_this_boot(self, sandbox: SandboxId) -> None:
        """Go on waiting after a boot of the node, which has ended all processes and holds.

        How long the node was down nobody knows for certain, so the time begins anew. A record that
        an older version wrote says nothing of its boot, and belongs to this one.
        """
        async with self._lock(sandbox):
            if (record := self._records.get(sandbox)) is None:
                return
            rebooted = bool(record.boot_id)
            record = replace(
                record,
                boot_id=heldrecord.this_boot(),
                stopped_at_boot_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME),
                frozen=record.frozen and not rebooted,
            )
            if rebooted:
                self._undecided.discard(sandbox)
            if rebooted and record.waiting:
                await self._node_takes_over(record)
            else:
                await self._write(record)

    async def _node_takes_over(self, record: HeldRecord) -> None:
        """Let the node drop what a sandbox's own hold dropped, for the sandbox goes or is gone.

        Each step is tried: connections are lost where nothing drops, whatever is on disk. `sweep`
        sets the hold again, and a later start finds one that it does not know.
        """
        node_hold = hold.NodeHold(record.waiting, key=record.sandbox[:12])
        record = replace(record, node_hold=node_hold.record)
        async with contextlib.AsyncExitStack() as steps:
            steps.push_async_callback(self._reserve, record)
            steps.push_async_callback(neighbours.loosen, record.waiting)
            steps.push_async_callback(node_hold.close)
            await self._write(record)

    async def _reserve(self, record: HeldRecord) -> None:
        """Keep CNI from giving the addresses to others, whether the sandbox still exists or not."""
        try:
            if record.reservations:
                await in_thread(
                    functools.partial(
                        reservation.reserve,
                        Path(record.reservations),
                        record.waiting,
                        owner=record.sandbox,
                        former=record.sandbox,
                        waiting=record.node_hold is not None,
                    )
                )
        except (AlreadyExists, Busy, OSError) as error:
            _log.warning("cannot reserve %s: %s", ", ".join(record.waiting), error)

    async def _unreserve(self, record: HeldRecord) -> None:
        """Let CNI give the addresses to others; what another sandbox has reserved is its own."""
        if record.reservations:
            release = functools.partial(
                reservation.release, Path(record.reservations), record.waiting, waiting=True
            )
            await in_thread(functools.partial(release, owner=record.sandbox))

    async def _standing(self, record: HeldRecord) -> Standing:
        """Return what is known of a record's archive; its disk may be one that never answers.

        The note of a half archive counts in the boot that wrote it: its removal is not durable, and
        a power cut may bring it back.
        """
        note = self._paths.dump(record.container)
        if record.boot_id == heldrecord.this_boot() and await in_thread(dumpnotes.is_half, note):
            return Standing.HALF
        try:
            return await patience.look(lambda: heldrecord.standing(record))
        except (TimeoutError, OSError) as error:
            _log.warning("%s cannot be looked at: %s", record.archive, str(error) or "no answer")
            return Standing.UNKNOWN

    def _lock(self, sandbox: SandboxId) -> asyncio.Lock:
        return self._locks.setdefault(sandbox, asyncio.Lock())

    async def _write(self, record: HeldRecord) -> None:
        self._records[record.sandbox] = record
        await in_thread(self._files.write, record.sandbox, record)

    async def _wait_ended(self, container: ContainerId) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_TIMEOUT_S):
                while (await self._cri.container(container)).running:  # noqa: ASYNC110
                    await asyncio.sleep(_POLL_S)  # CRI has no call that waits for an exit
                return
        raise DeadlineExceeded(
            f"container {container[:13]} was ended, but containerd still calls it running"
        )
