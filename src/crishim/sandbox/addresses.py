"""The preserved address of a pod: given, taken back, and left in order for CNI."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from crishim.aio.shield import in_thread
from crishim.errors import (
    AlreadyExists,
    NotFound,
    Precondition,
    RuntimeNotFound,
    Unavailable,
    Unsupported,
)
from crishim.ids import SandboxId
from crishim.network import address, cni, keeping, neighbours, reservation
from crishim.network.hold import TargetHold, end_closed, remove, standing
from crishim.sandbox.addressrecords import AddressRecords
from crishim.sandbox.arrival import Arrival, tried

if TYPE_CHECKING:
    from collections.abc import Collection

    from crishim.containerd.cri import Cri
    from crishim.flow.locks import Recovered
    from crishim.kernel.net.interface import InterfaceState
    from crishim.network.address import AddressRecord
    from crishim.network.cni import SandboxNetwork
    from crishim.paths import Paths
    from crishim.sandbox.held import HeldSandboxes

_READY = 0


class PreservedAddresses:
    """Gives pods the addresses of those that they were, and takes them back.

    Args:
        recovered: what a crash has left of other sandboxes, until it is in order.
        keeps: see `NetworkConfig`.
    """

    def __init__(
        self,
        *,
        cri: Cri,
        paths: Paths,
        held: HeldSandboxes,
        recovered: Recovered,
        keeps: keeping.Policy,
    ) -> None:
        self._cri = cri
        self._held = held
        self._recovered = recovered
        self._keeping = keeps
        self.records = AddressRecords(paths)
        self._arriving = asyncio.Lock()

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
            await self.records.write_ahead(plan)
        except BaseException:
            self.records.forget(sandbox)  # it may be written although its writer was cancelled
            await hold.abandon()
            raise
        return Arrival(self.records, self._held, hold, plan=plan, source=source)

    async def _has_arrived(self, sandbox: SandboxId) -> bool:
        """Return whether an earlier container of the pod brought the address for good.

        What an earlier attempt has left is taken back first; nothing is restored on top of it.
        Raises: Unavailable: what became of the earlier attempt is not known.
        """
        record = self.records.get(sandbox)
        if record is not None and not record.released and sandbox in self.records.unfinished:
            await self._take_back(record)
            record = None
        unknown = self.records.is_unknown(sandbox)
        if unknown or (record is not None and not record.released):
            raise Unavailable(
                "an earlier restore in this pod is still to be put in order",
                hint="try again, or restore into a new pod",
            )
        return record is not None

    def in_doubt(self, sandbox: SandboxId) -> bool:
        """Return whether a pod has an address, or may have, of a restore that is to be settled."""
        return self.records.in_doubt(sandbox)

    def _refuse_taken(self, state: InterfaceState, source: SandboxId | None) -> None:
        """Refuse an address that another sandbox has from us already: a second replica.

        Args: source: the sandbox that gives it up, which may have it from us.
        """
        wanted = set(state.global_addresses)
        for record in self.records.all():
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
            await tried(self._held.sandbox_stops(SandboxId(sandbox)))
        record = self.records.get(SandboxId(sandbox))
        if record is not None and record.released:
            await tried(self._put_back(record))

    async def recover(self, sandbox: SandboxId, *, arrived: bool) -> None:
        """Put in order what a crash in the middle of a restore has left of a sandbox.

        Args: arrived: a container that was restored into it runs, and has the address. Otherwise
            the address is put back, and the next restore begins anew.
        """
        record = self.records.get(sandbox)
        if record is None:
            return
        if not arrived and not record.released:
            self.records.unfinished.add(sandbox)
            await self._take_back(record)
            return
        await self._remove_holds(record)
        await self._hand_over(record)
        if not record.released:
            await self.records.released(sandbox)

    async def _take_back(self, record: AddressRecord) -> None:
        """Finish an undo: as `Arrival.undo`, with nothing left of the hold but its table."""
        source = self._held.records.of_addresses(record.preserved.global_addresses)
        if source is not None:
            await self._held.connections.restore_node_hold(source.sandbox)
        await end_closed(record.netns, record.preserved.global_addresses)
        await address.put_back(record)
        await self._remove_holds(record)
        self.records.forget(record.sandbox)
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
        self.records.forget(record.sandbox)

    async def sweep(self) -> None:
        """Try again what could not be done, and free addresses of sandboxes removed past us."""
        # Before the runtime is asked: younger ones are not in its answer.
        known = self.records.sandboxes()
        live = {item.id for item in await self._cri.sandboxes()}
        self.records.keep_unreadable(live)
        for sandbox in known:
            record = self.records.get(sandbox)
            if record is None:
                continue
            if sandbox not in live:
                leave = self._put_back if record.released else self._take_back
                await tried(leave(record))
            elif record.released:
                await tried(self._hand_over(record))
                if self.records.is_unwritten(sandbox):
                    await tried(self.records.released(sandbox))
