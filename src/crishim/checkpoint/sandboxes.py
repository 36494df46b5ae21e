"""What we change about pod sandboxes: MPTCP off, the preserved address, and all of it put back."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from crishim.checkpoint import address
from crishim.checkpoint.hold import TargetHold
from crishim.errors import Corrupt, Unsupported
from crishim.ids import SandboxId, by_prefix
from crishim.kernel import atomic
from crishim.kernel.netns import NetnsThread

if TYPE_CHECKING:
    from crishim._proto.runtime.v1 import api_pb2
    from crishim.checkpoint.address import AddressRecord
    from crishim.checkpoint.held import Held, HeldRecord
    from crishim.containerd.cri import Cri
    from crishim.kernel.interface import InterfaceState
    from crishim.paths import Paths

_log = logging.getLogger(__name__)
_READY = 0
_MPTCP = Path("/proc/sys/net/mptcp/enabled")


class Arrival:
    """An address on its way to a pod: behind a hold until the sockets exist.

    Endings: `release` after the restore; `undo` is always safe and does nothing after it.

    Args: source: the stopped container that had the address, if it is known on this node.
    """

    def __init__(
        self, sandboxes: Sandboxes, held: Held, hold: TargetHold, source: HeldRecord | None
    ) -> None:
        self._sandboxes = sandboxes
        self._held = held
        self._hold = hold
        self._source = source
        self._record: AddressRecord | None = None
        self._over = False

    async def begin(self, record: AddressRecord) -> None:
        """Give the pod its address; `record` is stored already."""
        self._record = record
        await self._hold.close()
        await address.apply(record, self._hold.link)
        await self._hold.announce(record.preserved)
        if self._source is not None:
            await self._held.lift_node_hold(self._source)

    async def release(self) -> None:
        """Let the connections go on."""
        if self._over or self._record is None:
            return
        self._over = True
        earlier = await self._held.take_frames(self._source) if self._source is not None else []
        await self._hold.release(self._record.preserved, earlier=earlier)

    async def undo(self) -> None:
        """Take the address away again; the hold ends last."""
        if self._over:
            return
        self._over = True
        if self._source is not None:
            await self._held.restore_node_hold(self._source)
        if self._record is not None:
            await self._sandboxes.put_back(self._record.sandbox)
        await self._hold.abandon()


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

    @property
    def any_preserved(self) -> bool:
        """Whether any sandbox has another address than CNI gave it."""
        return bool(self._records)

    async def started(self, sandbox: SandboxId) -> None:
        """Make a new sandbox's namespace fit for checkpoints."""
        if not self._disable_mptcp or not _MPTCP.exists():
            return
        found = await self._cri.sandbox(sandbox)
        if found.netns:
            async with NetnsThread(found.netns) as thread:
                await thread.run(_MPTCP.write_text, "0")

    async def arrive(
        self, sandbox: SandboxId, states: tuple[InterfaceState, ...]
    ) -> Arrival | None:
        """Give a sandbox the preserved addresses, behind a hold that drops and catches.

        Args: states: one interface at most.
        Returns: None where there is nothing to give: no interfaces, or an earlier container of
            the pod brought the address.
        Raises: AlreadyExists: somebody else has an address. Unsupported: several interfaces.
        On failure: everything is as before.
        """
        if not states or sandbox in self._records:
            return None
        if len(states) > 1:
            raise Unsupported("pods with several interfaces keep no address yet")
        state = states[0]
        target = await self._cri.sandbox(sandbox)
        if target.host_network:
            raise Unsupported("a pod on the host's network cannot keep an address of its own")
        source = self._held.of_addresses(state.global_addresses)
        hold = await TargetHold.prepare(target.netns)
        arrival = Arrival(self, self._held, hold, source)
        try:
            if source is None:
                await address.check(state, await self._addresses(sandbox), link=hold.link)
            else:
                await self._held.end(source.sandbox)
            former = source.sandbox if source is not None else None
            record = await address.plan(hold.link, state, sandbox=sandbox, former=former)
            self._write(record)
            await arrival.begin(record)
        except BaseException:
            await arrival.undo()
            raise
        return arrival

    async def _addresses(self, target: SandboxId) -> dict[SandboxId, tuple[str, ...]]:
        """Return the addresses of all live sandboxes but one."""
        found: dict[SandboxId, tuple[str, ...]] = {}
        for item in await self._cri.sandboxes():
            sandbox = SandboxId(item.id)
            if sandbox != target and item.state == _READY:
                status = (await self._cri.sandbox(sandbox)).status
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
        """Get a sandbox ready for CNI to take its address back."""
        if found := by_prefix(sandbox, self._records):
            await self.put_back(SandboxId(found))
        if found := by_prefix(sandbox, self._held.sandboxes()):
            await self._held.sandbox_stops(SandboxId(found))

    def forget(self, sandbox: SandboxId) -> None:
        """Drop the record of a sandbox."""
        self._records.pop(sandbox, None)
        self._paths.sandbox(sandbox).unlink(missing_ok=True)

    def correct(self, status: api_pb2.PodSandboxStatus) -> None:
        """Put the preserved addresses into a status that names the ones CNI assigned."""
        record = self._records.get(SandboxId(status.id))
        if record is None or not status.network.ip:
            return
        first, *more = record.preserved.global_addresses
        status.network.ip = first
        del status.network.additional_ips[:]
        for ip in more:
            status.network.additional_ips.add(ip=ip)

    def load(self) -> None:
        """Read the records that an earlier daemon has left."""
        for path in sorted(self._paths.sandboxes.glob("*.json")):
            try:
                record = address.AddressRecord.from_json(json.loads(path.read_bytes()))
            except ValueError as error:
                raise Corrupt(f"{path} is damaged", details=str(error)) from error
            self._records[record.sandbox] = record

    def _write(self, record: AddressRecord) -> None:
        self._paths.sandboxes.mkdir(mode=0o700, parents=True, exist_ok=True)
        data = json.dumps(record.to_json()).encode()
        atomic.write_file(self._paths.sandbox(record.sandbox), data)
        self._records[record.sandbox] = record
