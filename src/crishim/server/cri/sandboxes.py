"""The CRI methods of sandboxes that crishim changes.

- RunPodSandbox: MPTCP off in the new namespace, because CRIU refuses MPTCP sockets.
- PodSandboxStatus, GetContainerEvents: report the preserved address.
- StopPodSandbox, RemovePodSandbox: CNI's own address back first; the node's hold before a stopped
  container's sandbox goes.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crishim._proto.runtime.v1 import api_pb2
from crishim.ids import SandboxId, sandbox_id
from crishim.sandbox import mptcp
from crishim.server.cri.leaving import tried, whole_id

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from crishim.containerd.cri import Cri
    from crishim.flow.locks import Locks
    from crishim.restore.leftovers import Leftovers
    from crishim.sandbox.addresses import PreservedAddresses
    from crishim.sandbox.addressrecords import AddressRecords
    from crishim.sandbox.held import HeldSandboxes
    from crishim.server.calls import Calls
    from crishim.server.relay.overrides import Call, StreamCall


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSandboxes:
    """Our versions of methods of sandboxes.

    Attributes: calls: what may be done after a call has its answer.
    """

    calls: Calls
    cri: Cri
    leftovers: Leftovers
    addresses: PreservedAddresses
    mptcp: mptcp.Mptcp
    held: HeldSandboxes
    locks: Locks

    async def RunPodSandbox(self, call: Call) -> bytes:
        """Run a sandbox and make its namespace fit for CRIU."""
        answer = await call.forward(call.raw)
        asked = api_pb2.RunPodSandboxRequest.FromString(call.raw).config.linux.sysctls
        if mptcp.SYSCTL not in asked:  # what a pod says itself is left as it is
            created = api_pb2.RunPodSandboxResponse.FromString(answer).pod_sandbox_id
            await self.mptcp.started(sandbox_id(created))
        return answer

    async def PodSandboxStatus(self, call: Call) -> bytes:
        """Return a sandbox's status with the address that its pod really has."""
        answer = await call.forward(call.raw)
        if not self.addresses.records.any:
            return answer
        status = api_pb2.PodSandboxStatusResponse.FromString(answer)
        _correct(status.status, self.addresses.records)
        return status.SerializeToString()

    async def StopPodSandbox(self, call: Call) -> bytes:
        """Stop a sandbox; CNI finds the address that it gave."""
        request = api_pb2.StopPodSandboxRequest.FromString(call.raw)
        async with self._leaving_sandbox(request.pod_sandbox_id):
            return await call.forward(call.raw)

    async def RemovePodSandbox(self, call: Call) -> bytes:
        """Remove a sandbox, its containers, and what we keep of them."""
        request = api_pb2.RemovePodSandboxRequest.FromString(call.raw)
        async with self._leaving_sandbox(request.pod_sandbox_id) as sandbox:
            answer = await call.forward(call.raw)
            self.held.sandbox_removed(sandbox)
        self.calls.afterwards("clearing up", self.leftovers.sweep())
        return answer

    @contextlib.asynccontextmanager
    async def _leaving_sandbox(self, named: str) -> AsyncIterator[str]:
        """Own a sandbox that is to go, with CNI's own address in it; its whole id is returned.

        Args: named: an id or the first digits of one.
        """
        sandbox = await whole_id(named, self.cri.sandboxes)
        await self.locks.recovered.wait(sandbox)
        async with self.locks.whole(sandbox):
            self.leftovers.preparations.drop(sandbox)
            await tried(self.leftovers.pod_leaves(sandbox), f"restore in sandbox {sandbox[:13]}")
            await tried(self.addresses.stopping(sandbox), f"address of sandbox {sandbox[:13]}")
            yield sandbox

    async def GetContainerEvents(self, call: StreamCall) -> AsyncGenerator[bytes, None]:
        """Stream events; those with a sandbox's status report the address it really has."""
        async for event in call.forward(call.raw):
            if not self.addresses.records.any:
                yield event
                continue
            message = api_pb2.ContainerEventResponse.FromString(event)
            _correct(message.pod_sandbox_status, self.addresses.records)
            yield message.SerializeToString()


def _correct(status: api_pb2.PodSandboxStatus, records: AddressRecords) -> None:
    """Put the preserved addresses into a status that names the ones CNI assigned."""
    record = records.get(SandboxId(status.id))
    if record is None or not status.network.ip or not record.preserved.global_addresses:
        return
    first, *more = record.preserved.global_addresses
    status.network.ip = first
    del status.network.additional_ips[:]
    for ip in more:
        status.network.additional_ips.add(ip=ip)
