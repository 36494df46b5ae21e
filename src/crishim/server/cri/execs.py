"""The CRI methods that begin an exec: they wait for the end of a dump's pause.

runc refuses an exec in a frozen container, and CRIU cannot dump one that began outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from crishim._proto.runtime.v1 import api_pb2

if TYPE_CHECKING:
    from crishim.flow.locks import Locks
    from crishim.server.relay.overrides import Call


@dataclass(frozen=True, slots=True, kw_only=True)
class Execs:
    """Our versions of ExecSync and Exec."""

    locks: Locks

    async def ExecSync(self, call: Call) -> bytes:
        """Run a command, after a dump's pause that is under way."""
        request = api_pb2.ExecSyncRequest.FromString(call.raw)
        await self.locks.exec_may_begin(request.container_id)
        with self.locks.exec(request.container_id):
            return await call.forward(call.raw)

    async def Exec(self, call: Call) -> bytes:
        """Prepare an exec session, after a dump's pause that is under way."""
        request = api_pb2.ExecRequest.FromString(call.raw)
        await self.locks.exec_may_begin(request.container_id)
        return await call.forward(call.raw)
