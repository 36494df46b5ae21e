"""The connections of a container that is being dumped: drained, held, let go or kept.

Binds a `SourceHold` to what a dump knows: its pod's namespace, and which sockets are the
container's own where other containers of the pod go on. A pod on the host's network, or without a
veth, has nothing to hold; every method then does nothing, and `endpoints` has refused what would
need it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crishim.aio.shield import in_thread
from crishim.errors import NotFound, Precondition
from crishim.kernel import procs
from crishim.network import address, podnetwork
from crishim.network.hold import SourceHold

if TYPE_CHECKING:
    from collections.abc import Collection

    from crishim.container.resolve import Source
    from crishim.kernel.net.interface import InterfaceState


class SourceConnections:
    """The connections of one container, from before its drain until they are let go or kept.

    Args: lasting: the dump will end the container; see `SourceHold.prepare`.
    """

    def __init__(self, source: Source, *, lasting: bool) -> None:
        self._source = source
        self._lasting = lasting
        self.hold: SourceHold | None = None

    async def prepare(self) -> tuple[InterfaceState, ...]:
        """Get ready to hold; return the pod's interfaces. From here on `release` must follow."""
        netns = self._source.sandbox.netns
        if self._source.sandbox.host_network:
            return ()
        try:
            self.hold = await SourceHold.prepare(netns, lasting=self._lasting)
        except (NotFound, Precondition):
            if (await podnetwork.look(netns)).holdable:
                raise
            return ()
        return (await address.read(netns),)

    async def drain(self, pids: Collection[int], *, timeout_s: float) -> None:
        """Let accept queues run empty: CRIU refuses a listener with connections in it.

        Raises: Precondition: connections still wait to be accepted.
        """
        if self.hold is not None:
            sockets = await self._sockets(pids)
            await self.hold.drain(timeout_s=timeout_s, listeners=sockets)

    async def close(self, pids: Collection[int]) -> None:
        """Hold the pod's connections, or the container's where other containers go on."""
        if self.hold is not None:
            sockets = await self._sockets(pids)
            await self.hold.close(None if sockets is None else await self.hold.sockets(sockets))

    async def release(self) -> None:
        """Let everything go again; may be repeated."""
        if self.hold is not None:
            await self.hold.release()

    async def _sockets(self, pids: Collection[int]) -> frozenset[int] | None:
        """Return the inodes of the container's own sockets; None where all are."""
        if not self._source.neighbours:
            return None
        return (await in_thread(procs.open_files, pids)).sockets
