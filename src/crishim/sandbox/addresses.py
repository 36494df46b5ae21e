"""What we change about pod sandboxes: MPTCP off, the preserved address, and all of it put back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from crishim.aio.shield import in_thread
from crishim.errors import (
    AlreadyExists,
    CrishimError,
    NotFound,
    Precondition,
    RuntimeNotFound,
    RuntimeRefused,
    Unavailable,
    Unsupported,
)
from crishim.ids import SandboxId
from crishim.kernel.net.netns import NetnsThread
from crishim.network import address, cni, keeping, neighbours, reservation
from crishim.network.hold import TargetHold, end_closed, remove, standing
from crishim.sandbox.recordfiles import RecordFiles

if TYPE_CHECKING:
    from collections.abc import Awaitable, Collection

    from crishim._proto.runtime.v1 import api_pb2
    from crishim.containerd.cri import Cri
    from crishim.flow.locks import Recovered
    from crishim.kernel.net.interface import InterfaceState
    from crishim.network.address import AddressRecord
    from crishim.network.cni import SandboxNetwork
    from crishim.paths import Paths
    from crishim.sandbox.held import HeldSandboxes

_log = logging.getLogger(__name__)
_READY = 0
_MPTCP = Path("/proc/sys/net/mptcp/enabled")
MPTCP_SYSCTL = "net.mptcp.enabled"


class Arrival:
    """An address on its way to a pod: behind a hold until the sockets exist.

    Endings: `release` after the restore; `undo` is always safe and does nothing after it.

    Args:
        plan: what `begin` will change; it is stored already.
        source: sandbox of the stopped container that had the address, if this node knows it.
    """

    def __init__(
        self,
        sandboxes: Sandboxes,
        held: HeldSandboxes,
        hold: TargetHold,
        *,
        plan: AddressRecord,
        source: SandboxId | None,
    ) -> None:
        self._sandboxes = sandboxes
        self._held = held
        self._hold = hold
        self._source = source
        self._plan = plan
        self._begun = False
        self._lifted = False
        self._over = False

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses that arrive."""
        return self._plan.preserved.global_addresses

    async def begin(self) -> None:
        """Give the pod its address; on failure `undo` is to be called."""
        self._begun = True
        # Known before its hold stands: a table that nobody knows is taken away (`strays`).
        self._sandboxes.remember(self._plan)
        await self._hold.close()
        await address.apply(self._plan, self._hold.link)
        await self._hold.announce(self._plan.preserved)
        if self._source is not None:
            self._lifted = True
            await self._held.connections.lift_node_hold(self._source)

    async def seal(self) -> None:
        """Let nothing of the pod out any more, because its restore is going to be undone."""
        if self._begun and not self._over:
            await self._hold.seal()

    async def release(self) -> None:
        """Let the connections go on: the sockets are there.

        Each step is tried, and none that fails takes the restore back, which has succeeded: what is
        left is remembered, and `Sandboxes.sweep` and `hold.remove_left` try again.
        """
        if self._over or not self._begun:
            return
        self._over = True
        connections, source = self._held.connections, self._source
        earlier = connections.stop_catching(source) if source is not None else []
        await _tried(self._hold.release(self._plan.preserved, earlier=earlier))
        await _tried(self._sandboxes.released(self._plan.sandbox))
        if self._source is not None:
            await _tried(self._held.connections.hand_over(self._source))

    async def leave(self) -> None:
        """Leave everything as it is: whether the sockets are there is not known yet.

        Recovery finds it out when containerd is back; nothing is restored in the pod until then.
        """
        if not self._over:
            self._over = True
            self._sandboxes.doubtful.add(self._plan.sandbox)
            await _tried(self._hold.leave())

    async def undo(self) -> None:
        """Take the address away again; the hold ends last, and stands until that has succeeded.

        Each step is tried. Where the address stays for now, the next `arrive` or the next start of
        the daemon takes it away first.
        """
        if self._over:
            return
        self._over = True
        if self._source is not None and self._lifted:
            await _tried(self._held.connections.restore_node_hold(self._source))
        if await _tried(self._sandboxes.taken_back(self._plan, begun=self._begun)):
            await _tried(self._hold.abandon())
        else:
            await _tried(self._hold.leave())
        if self._source is not None and self._begun:
            await _tried(self._held.connections.keep_again(self._source))


async def _tried(step: Awaitable[object]) -> bool:
    """Run one step of an undo or a release; return whether it succeeded, having logged why not."""
    try:
        await step
    except Exception:  # noqa: BLE001 - the next step must be tried whatever this one met
        _log.exception("a step to leave a pod's network in order has failed")
        return False
    return True


class Sandboxes:
    """All sandboxes whose address we changed.

    Args:
        recovered: what a crash has left of other sandboxes, until it is in order.
        disable_mptcp: see `CheckpointConfig`.
        keeps: see `NetworkConfig`.
    """

    def __init__(
        self,
        *,
        cri: Cri,
        paths: Paths,
        held: HeldSandboxes,
        recovered: Recovered,
        disable_mptcp: bool,
        keeps: keeping.Policy,
    ) -> None:
        self._cri = cri
        self._held = held
        self._recovered = recovered
        self._keeping = keeps
        self._disable_mptcp = disable_mptcp
        self._records: dict[SandboxId, AddressRecord] = {}
        self._files = RecordFiles(paths.sandboxes, paths.sandbox, codec=address.CODEC)
        self._unfinished: set[SandboxId] = set()
        self._unwritten: set[SandboxId] = set()
        self.doubtful: set[SandboxId] = set()
        self._arriving = asyncio.Lock()

    @property
    def any_preserved(self) -> bool:
        """Whether any sandbox has another address than CNI gave it."""
        return bool(self._records)

    async def started(self, sandbox: SandboxId) -> None:
        """Make a new sandbox's namespace fit for checkpoints; what fails here costs no pod."""
        if not self._disable_mptcp or not _MPTCP.exists():
            return
        try:
            found = await self._cri.sandbox(sandbox)
            if found.netns:
                async with NetnsThread(found.netns) as thread:
                    await thread.run(_MPTCP.write_text, "0")
        except (CrishimError, RuntimeRefused, OSError) as error:
            _log.warning("MPTCP stays on in sandbox %s: %s", sandbox[:13], error)

    async def arrive(
        self, sandbox: SandboxId, states: tuple[InterfaceState, ...], *, by_pod: bool = False
    ) -> Arrival | None:
        """Give a sandbox the preserved addresses, behind a hold that drops and catches.

        Args: states: one interface at most. by_pod: an annotation asks for it, which whoever may
            make pods can write.
        Returns: None where there is nothing to give: no interfaces, or an earlier container of
            the pod brought the address.
        Raises: AlreadyExists: somebody else has an address. Unsupported: it has none of its own.
            Precondition: the sandbox is that of a stopped container, and held; or its network
            keeps no addresses (`keeping`).
        On failure: everything is as before.
        """
        for state in states:
            if source := self._held.records.of_addresses(state.global_addresses):
                await self._recovered.wait(source.sandbox)
        async with self._arriving:
            arrival = await self._expect(sandbox, states, by_pod=by_pod)
            if arrival is None:
                return None
            try:
                await arrival.begin()
            except BaseException:
                await arrival.undo()
                raise
            return arrival

    async def expect(
        self, sandbox: SandboxId, states: tuple[InterfaceState, ...], *, source: SandboxId
    ) -> Arrival | None:
        """Make ready what `arrive` does, while the source has the address still.

        It is written down; the pod changes in `begin`. `undo` is needed from here on.
        Args: source: its sandbox, whose connections will be held by `begin`.
        Returns, Raises: as `arrive`. Precondition: the source was stopped already.
        """
        if stopped := self._held.records.of_sandbox(source):
            raise Precondition(
                "the source was stopped by a checkpoint already",
                hint=f"restore {stopped.containers[0].archive}",
            )
        async with self._arriving:
            return await self._expect(sandbox, states, source)

    async def _expect(
        self,
        sandbox: SandboxId,
        states: tuple[InterfaceState, ...],
        source: SandboxId | None = None,
        *,
        by_pod: bool = False,
    ) -> Arrival | None:
        if self._held.records.of_sandbox(sandbox):
            raise Precondition(
                "the pod's own container was stopped by a checkpoint, and the pod is cut off",
                hint="restore into a new pod",
            )
        if not states or await self._has_arrived(sandbox):
            return None
        state = states[0]
        target = await self._cri.sandbox(sandbox)
        if target.host_network:
            raise Unsupported("a pod on the host's network cannot keep an address of its own")
        if source is None and (found := self._held.records.of_addresses(state.global_addresses)):
            source = found.sandbox
        self._refuse_taken(state, source)
        network = await in_thread(cni.sandbox_network, sandbox)
        keeping.refuse_unmanaged(network, self._keeping, hint="restore it with a new address")
        hold = await TargetHold.prepare(target.netns)
        try:
            await self._refuse_in_use(state, hold, network, sandbox=sandbox, source=source)
            plan = await address.plan(hold.link, state, sandbox=sandbox, former=source)
            if by_pod and source is None:
                keeping.refuse_astray(plan.preserved, plan.own, self._keeping)
            await in_thread(self._files.write, sandbox, plan)
        except BaseException:
            self.forget(sandbox)  # it may be written although its writer was cancelled
            await hold.abandon()
            raise
        return Arrival(self, self._held, hold, plan=plan, source=source)

    async def _has_arrived(self, sandbox: SandboxId) -> bool:
        """Return whether an earlier container of the pod brought the address for good.

        What an earlier attempt has left is taken back first; nothing is restored on top of it.
        Raises: Unavailable: what became of the earlier attempt is not known.
        """
        record = self._records.get(sandbox)
        if record is not None and not record.released and sandbox in self._unfinished:
            await self._take_back(record)
            record = None
        unknown = sandbox in self._files.unreadable or not self._files.loaded
        if unknown or (record is not None and not record.released):
            raise Unavailable(
                "an earlier restore in this pod is still to be put in order",
                hint="try again, or restore into a new pod",
            )
        return record is not None

    def _refuse_taken(self, state: InterfaceState, source: SandboxId | None) -> None:
        """Refuse an address that another sandbox has from us already: a second replica.

        Args: source: the sandbox that gives it up, which may have it from us.
        """
        wanted = set(state.global_addresses)
        for record in self._records.values():
            if record.sandbox == source:
                continue
            if taken := wanted & set(record.preserved.global_addresses):
                raise AlreadyExists(
                    f"the address {', '.join(sorted(taken))} is in use by another restored pod",
                    details=f"sandbox {record.sandbox}",
                )

    async def _refuse_in_use(
        self,
        state: InterfaceState,
        hold: TargetHold,
        network: SandboxNetwork,
        *,
        sandbox: SandboxId,
        source: SandboxId | None,
    ) -> None:
        """Refuse addresses that somebody has.

        What host-local has reserved for the source nobody else was given, and a move need not wait
        until everybody has been asked. The network is not asked while the source itself answers.
        """
        if source is not None and network.reservations is not None:
            wanted = state.global_addresses
            if await in_thread(reservation.is_of, network.reservations, wanted, source):
                return
        others = await self._addresses({sandbox, source})
        silent = source is None or self._held.records.of_sandbox(source) is not None
        await address.check(state, others, link=hold.link, ask_network=silent)

    async def _addresses(
        self, but: Collection[SandboxId | None]
    ) -> dict[SandboxId, tuple[str, ...]]:
        """Return the addresses that CNI gave to all live sandboxes but some."""
        found: dict[SandboxId, tuple[str, ...]] = {}
        for item in await self._cri.sandboxes():
            sandbox = SandboxId(item.id)
            if sandbox not in but and item.state == _READY:
                # Any other refusal passes: it may have any address.
                with contextlib.suppress(RuntimeNotFound):
                    found[sandbox] = await self._cri.addresses(sandbox)
        return found

    async def stopping(self, sandbox: str) -> None:
        """Get a sandbox ready for CNI to take its address back; what fails here stops nobody.

        The node drops first what it could not deliver any more without the sandbox's routes. What
        is left over is remembered, and `sweep` tries again. So is an address that is `in_doubt`:
        nobody knows whether its processes run.
        """
        if sandbox in self._held.records.sandboxes():
            await _tried(self._held.sandbox_stops(SandboxId(sandbox)))
        record = self._records.get(SandboxId(sandbox))
        if record is not None and record.released:
            await _tried(self._put_back(record))

    def in_doubt(self, sandbox: SandboxId) -> bool:
        """Return whether a pod has an address, or may have, of a restore that is to be settled."""
        record = self._records.get(sandbox)
        return record is not None and not record.released

    async def released(self, sandbox: SandboxId) -> None:
        """Write down that an address is there for good: the restore that brought it succeeded."""
        record = replace(self._records[sandbox], released=True)
        self._records[sandbox] = record
        self._unfinished.discard(sandbox)
        self.doubtful.discard(sandbox)
        self._unwritten.add(sandbox)
        await in_thread(self._files.write, sandbox, record)
        self._unwritten.discard(sandbox)

    async def taken_back(self, plan: AddressRecord, *, begun: bool) -> None:
        """Take back what an arrival has changed, behind its hold.

        Args: begun: it has changed the pod, and not only written down that it would.
        On failure: `arrive` and `sweep` try again.
        """
        if begun:
            self._unfinished.add(plan.sandbox)
            await end_closed(plan.netns, plan.preserved.global_addresses)
            await address.put_back(plan)
        self.forget(plan.sandbox)

    async def recover(self, sandbox: SandboxId, *, arrived: bool) -> None:
        """Put in order what a crash in the middle of a restore has left of a sandbox.

        Args: arrived: a container that was restored into it runs, and has the address. Otherwise
            the address is put back, and the next restore begins anew.
        """
        record = self._records.get(sandbox)
        if record is None:
            return
        if not arrived and not record.released:
            self._unfinished.add(sandbox)
            await self._take_back(record)
            return
        await self._remove_holds(record)
        await self._hand_over(record)
        if not record.released:
            await self.released(sandbox)

    async def _take_back(self, record: AddressRecord) -> None:
        """Finish an undo: as `Arrival.undo`, with nothing left of the hold but its table."""
        source = self._held.records.of_addresses(record.preserved.global_addresses)
        if source is not None:
            await self._held.connections.restore_node_hold(source.sandbox)
        await end_closed(record.netns, record.preserved.global_addresses)
        await address.put_back(record)
        await self._remove_holds(record)
        self.forget(record.sandbox)
        if source is not None:
            await self._held.connections.keep_again(source.sandbox)
        else:
            await neighbours.loosen(record.preserved.global_addresses)

    async def _remove_holds(self, record: AddressRecord) -> None:
        """Remove the holds in a sandbox but that of a container that was stopped in it since."""
        with contextlib.suppress(NotFound):
            for found in await standing(record.netns):
                if found.table not in self._held.connections.tables():
                    await remove(found)

    async def _hand_over(self, record: AddressRecord) -> None:
        if record.sandbox in self._held.records.sandboxes():
            return  # its own container was stopped since: the address may have gone on from here
        source = self._held.records.of_addresses(record.preserved.global_addresses)
        if source is not None and source.sandbox != record.sandbox:
            await self._held.connections.hand_over(source.sandbox)

    async def _put_back(self, record: AddressRecord) -> None:
        await address.put_back(record)
        self.forget(record.sandbox)

    async def sweep(self) -> None:
        """Try again what could not be done, and free addresses of sandboxes removed past us."""
        known = self.sandboxes()  # before the runtime is asked: younger ones are not in its answer
        live = {item.id for item in await self._cri.sandboxes()}
        self._files.keep_unreadable(live)
        for sandbox in known:
            record = self._records.get(sandbox)
            if record is None:
                continue
            if sandbox not in live:
                leave = self._put_back if record.released else self._take_back
                await _tried(leave(record))
            elif record.released:
                await _tried(self._hand_over(record))
                if sandbox in self._unwritten:
                    await _tried(self.released(sandbox))

    @property
    def unfinished(self) -> list[SandboxId]:
        """The sandboxes in which a restore has left something to be taken back, or to be found out.

        Whether to take it back `recover` is told.
        """
        return [item for item in self._unfinished | self.doubtful if item in self._records]

    def sandboxes(self) -> list[SandboxId]:
        """Return the sandboxes with a preserved address."""
        return list(self._records)

    def is_arriving(self, netns: str) -> bool:
        """Return whether a sandbox is getting an address, or may be: its hold stands by right."""
        return any(r.netns == netns and not r.released for r in self._records.values())

    def tables(self) -> set[str]:
        """Return the names of the nftables tables that translate preserved addresses."""
        unreadable = {address.table_of(sandbox) for sandbox in self._files.unreadable}
        return unreadable | {record.table for record in self._records.values()}

    @property
    def loaded(self) -> bool:
        """Whether the records that an earlier daemon left could be read."""
        return self._files.loaded

    def forget(self, sandbox: SandboxId) -> None:
        """Drop the record of a sandbox."""
        self._files.remove(sandbox)
        self._records.pop(sandbox, None)
        self._unfinished.discard(sandbox)
        self._unwritten.discard(sandbox)
        self.doubtful.discard(sandbox)

    def correct(self, status: api_pb2.PodSandboxStatus) -> None:
        """Put the preserved addresses into a status that names the ones CNI assigned."""
        record = self._records.get(SandboxId(status.id))
        if record is None or not status.network.ip:
            return
        if not record.preserved.global_addresses:
            return
        first, *more = record.preserved.global_addresses
        status.network.ip = first
        del status.network.additional_ips[:]
        for ip in more:
            status.network.additional_ips.add(ip=ip)

    def load(self) -> None:
        """Read the records that an earlier daemon has left; none is acted upon yet.

        Raises: OSError: their directory cannot be read.
        """
        for sandbox, record in self._files.read().items():
            self._records.setdefault(sandbox, record)

    def load_refused(self) -> None:
        """Read again the records that the disk has not given."""
        for sandbox, record in self._files.read_refused().items():
            self._records.setdefault(sandbox, record)

    def remember(self, record: AddressRecord) -> None:
        """Count a sandbox among those with a preserved address."""
        self._unfinished.discard(record.sandbox)
        self._records[record.sandbox] = record
