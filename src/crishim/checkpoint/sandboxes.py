"""What we change about pod sandboxes: MPTCP off, the preserved address, and all of it put back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from crishim.checkpoint import address
from crishim.checkpoint.flow import in_thread
from crishim.checkpoint.hold import TargetHold, end_closed, sweep
from crishim.errors import (
    AlreadyExists,
    Corrupt,
    CrishimError,
    NotFound,
    Precondition,
    Unsupported,
)
from crishim.ids import SandboxId, by_prefix
from crishim.kernel import atomic
from crishim.kernel.netns import NetnsThread

if TYPE_CHECKING:
    from crishim._proto.runtime.v1 import api_pb2
    from crishim.checkpoint.address import AddressRecord
    from crishim.checkpoint.held import Held
    from crishim.containerd.cri import Cri
    from crishim.kernel.interface import InterfaceState
    from crishim.paths import Paths

_log = logging.getLogger(__name__)
_READY = 0
_MPTCP = Path("/proc/sys/net/mptcp/enabled")


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
        held: Held,
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
        await self._hold.close()
        self._sandboxes.remember(self._plan)
        await address.apply(self._plan, self._hold.link)
        await self._hold.announce(self._plan.preserved)
        if self._source is not None:
            self._lifted = True
            await self._held.lift_node_hold(self._source)

    async def seal(self) -> None:
        """Let nothing of the pod out any more, because its restore is going to be undone."""
        if self._begun and not self._over:
            await self._hold.seal()

    async def release(self) -> None:
        """Let the connections go on."""
        if self._over or not self._begun:
            return
        self._over = True
        earlier = self._held.stop_catching(self._source) if self._source is not None else []
        await self._hold.release(self._plan.preserved, earlier=earlier)
        if self._source is not None:
            await self._held.hand_over(self._source)

    async def undo(self) -> None:
        """Take the address away again; the hold ends last."""
        if self._over:
            return
        self._over = True
        if self._source is not None and self._lifted:
            await self._held.restore_node_hold(self._source)
        if self._begun:
            await end_closed(self._plan.netns, self.addresses)
            await self._sandboxes.put_back(self._plan.sandbox)
        self._sandboxes.forget(self._plan.sandbox)
        await self._hold.abandon()
        if self._source is not None and self._begun:
            await self._held.keep_again(self._source)


class Sandboxes:
    """All sandboxes whose address we changed.

    Args: disable_mptcp: see `CheckpointConfig`.
    """

    def __init__(self, *, cri: Cri, paths: Paths, held: Held, disable_mptcp: bool) -> None:
        self._cri = cri
        self._paths = paths
        self._held = held
        self._disable_mptcp = disable_mptcp
        self._records: dict[SandboxId, AddressRecord] = {}
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
        except (CrishimError, grpc.aio.AioRpcError, OSError) as error:
            _log.warning("MPTCP stays on in sandbox %s: %s", sandbox[:13], error)

    async def arrive(
        self, sandbox: SandboxId, states: tuple[InterfaceState, ...]
    ) -> Arrival | None:
        """Give a sandbox the preserved addresses, behind a hold that drops and catches.

        Args: states: one interface at most.
        Returns: None where there is nothing to give: no interfaces, or an earlier container of
            the pod brought the address.
        Raises: AlreadyExists: somebody else has an address. Unsupported: several interfaces.
            Precondition: the sandbox is that of a stopped container, and held.
        On failure: everything is as before.
        """
        async with self._arriving:
            arrival = await self._expect(sandbox, states)
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
        if stopped := self._held.of_sandbox(source):
            raise Precondition(
                "the source was stopped by a checkpoint already",
                hint=f"restore {stopped.archive}",
            )
        async with self._arriving:
            return await self._expect(sandbox, states, source)

    async def _expect(
        self,
        sandbox: SandboxId,
        states: tuple[InterfaceState, ...],
        source: SandboxId | None = None,
    ) -> Arrival | None:
        if self._held.of_sandbox(sandbox):
            raise Precondition(
                "the pod's own container was stopped by a checkpoint, and the pod is cut off",
                hint="restore into a new pod",
            )
        if len(states) > 1:
            raise Unsupported("pods with several interfaces keep no address yet")
        if not states or sandbox in self._records:
            return None
        state = states[0]
        target = await self._cri.sandbox(sandbox)
        if target.host_network:
            raise Unsupported("a pod on the host's network cannot keep an address of its own")
        if source is None and (found := self._held.of_addresses(state.global_addresses)):
            source = found.sandbox
        self._refuse_taken(state, source)
        hold = await TargetHold.prepare(target.netns)
        try:
            if source is None:
                await address.check(state, await self._addresses(sandbox), link=hold.link)
            plan = await address.plan(hold.link, state, sandbox=sandbox, former=source)
            await in_thread(self._store, plan)
        except BaseException:
            await hold.abandon()
            raise
        return Arrival(self, self._held, hold, plan=plan, source=source)

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

    async def _addresses(self, target: SandboxId) -> dict[SandboxId, tuple[str, ...]]:
        """Return the addresses of all live sandboxes but one."""
        found: dict[SandboxId, tuple[str, ...]] = {}
        for item in await self._cri.sandboxes():
            sandbox = SandboxId(item.id)
            if sandbox != target and item.state == _READY:
                try:
                    status = (await self._cri.sandbox(sandbox)).status
                except (CrishimError, grpc.aio.AioRpcError):
                    continue  # it is just being removed
                self.correct(status)
                more = (ip.ip for ip in status.network.additional_ips)
                found[sandbox] = (status.network.ip, *more)
        return found

    async def put_back(self, sandbox: SandboxId) -> None:
        """Give a sandbox the address that CNI assigned; nothing to do for others."""
        record = self._records.get(sandbox)
        if record is not None:
            await address.put_back(record)
            self.forget(sandbox)

    async def stopping(self, sandbox: str) -> None:
        """Get a sandbox ready for CNI to take its address back.

        The node drops first what it could not deliver any more without the sandbox's routes.
        """
        if found := by_prefix(sandbox, self._held.sandboxes()):
            await self._held.sandbox_stops(SandboxId(found))
        if found := by_prefix(sandbox, self._records):
            await self.put_back(SandboxId(found))

    async def recover(self, sandbox: SandboxId, *, waiting: bool) -> None:
        """Lift the hold that a crash in the middle of a restore has left over a sandbox.

        Args: waiting: a container of the sandbox still waits for its restore: the address is put
            back, and that restore begins anew.
        """
        record = self._records[sandbox]
        own = self._held.of_sandbox(sandbox)
        source = self._held.of_addresses(record.preserved.global_addresses)
        if waiting:
            if source is not None:
                await self._held.restore_node_hold(source.sandbox)
            await end_closed(record.netns, record.preserved.global_addresses)
            await self.put_back(sandbox)
            if source is not None:
                await self._held.keep_again(source.sandbox)
        with contextlib.suppress(NotFound):
            # The sandbox may itself hold the connections of a container that was stopped since.
            await sweep(record.netns, keep=[own.pod_hold.table] if own and own.pod_hold else [])
        if not waiting and source is not None and source.sandbox != sandbox:
            await self._held.hand_over(source.sandbox)

    async def sweep(self) -> None:
        """Free the addresses of sandboxes that somebody removed without asking us."""
        known = self.sandboxes()  # before the runtime is asked: younger ones are not in its answer
        live = {item.id for item in await self._cri.sandboxes()}
        for sandbox in known:
            if sandbox not in live:
                await self.put_back(sandbox)

    def sandboxes(self) -> list[SandboxId]:
        """Return the sandboxes with a preserved address."""
        return list(self._records)

    def forget(self, sandbox: SandboxId) -> None:
        """Drop the record of a sandbox."""
        self._records.pop(sandbox, None)
        self._paths.sandbox(sandbox).unlink(missing_ok=True)

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
        """Read the records that an earlier daemon has left."""
        for path in sorted(self._paths.sandboxes.glob("*.json")):
            with atomic.damaged_aside(path):
                record = _decode(path.read_bytes())
                self._records[record.sandbox] = record

    def remember(self, record: AddressRecord) -> None:
        """Count a sandbox among those with a preserved address."""
        self._records[record.sandbox] = record

    def _store(self, record: AddressRecord) -> None:
        self._paths.sandboxes.mkdir(mode=0o700, parents=True, exist_ok=True)
        data = json.dumps(record.to_json()).encode()
        atomic.write_file(self._paths.sandbox(record.sandbox), data)


def _decode(data: bytes) -> address.AddressRecord:
    try:
        return address.AddressRecord.from_json(json.loads(data))
    except ValueError as error:
        raise Corrupt("not a record of a sandbox's address", details=str(error)) from error
