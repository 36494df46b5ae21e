"""A pod's interface from both of its ends, with everything slow already done.

Opening one enters the pod's namespace, loads and warms libnftables and rtnetlink on both sides, and
finds the veth's end on the node. What then has to happen between a pause and a dump costs tenths of
milliseconds. It decides nothing: holds and addresses are made with it by others. While its inner
side is open the pod's network namespace cannot end.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Self

from crishim.aio.lanes import Lane
from crishim.aio.shield import in_thread
from crishim.kernel.net.netlink import Netlink
from crishim.kernel.net.netns import NetnsThread
from crishim.kernel.net.packet import Announcer, Tap
from crishim.tools.nft import Nft

if TYPE_CHECKING:
    from crishim.kernel.net.interface import InterfaceState

INTERFACE = "eth0"


class PodLink:
    """Both ends of a pod's interface; made by `open`, ended by `close`.

    Attributes:
        inside: a thread in the pod's namespace; `nft`, `netlink` and `announcer` belong to it.
        outside: a thread in the node's; `host_netlink` belongs to it.
        host_interface: name of the veth's end on the node.
        host_device: what the node sends to the pod by: a bridge, or `host_interface`.
        tap: catches at `host_interface` what goes towards the pod.
        closed: whether the inner side is closed.
    """

    nft: Nft
    netlink: Netlink
    announcer: Announcer
    host_netlink: Netlink
    host_interface: str
    host_device: str
    tap: Tap

    def __init__(self, netns: str) -> None:
        self.netns = netns
        self.closed = False
        self._host_nft: Nft | None = None
        self._inner = contextlib.ExitStack()
        self._outer = contextlib.ExitStack()
        self.inside = NetnsThread(netns)
        self._inner.callback(self.inside.close)
        self.outside = NetnsThread(None)
        self._outer.callback(self.outside.close)

    @classmethod
    async def open(cls, netns: str) -> Self:
        """Open both ends of the pod's eth0.

        Args: netns: path of the pod's network namespace, as the CRI status tells it.
        Raises:
            NotFound: no such namespace, no eth0 in it.
            Precondition: eth0 is no veth with its other end on this node, or libnftables is
                missing.
        On cancel: everything opened so far is closed.
        """
        link = cls(netns)
        try:
            await link._open_inside()
            await link._open_outside()
        except BaseException:
            await asyncio.shield(link.close())
            raise
        return link

    async def _open_inside(self) -> None:
        inside = self.inside
        self.netlink = await inside.made(self._inner, Netlink)
        self.nft = await inside.made(self._inner, Nft)
        self.announcer = await inside.made(self._inner, Announcer, INTERFACE)
        # The first conversation of a context is ten times as slow as the following ones.
        await inside.run(self.nft.tables)

    async def _open_outside(self) -> None:
        self.host_netlink = await self.outside.made(self._outer, Netlink)
        self.host_interface = await self.outside.run(
            self.host_netlink.find_peer,
            self.netns,
            index=await self.inside.run(self.netlink.peer_index, INTERFACE),
            peer_index=await self.inside.run(self.netlink.index, INTERFACE),
        )
        master = await self.outside.run(self.host_netlink.master, self.host_interface)
        self.host_device = master or self.host_interface
        self.tap = await self.outside.made(self._outer, Tap, self.host_interface)

    async def open_host_nft(self) -> Nft:
        """Return libnftables for the node's side, warm; the first call makes it."""
        if self._host_nft is None:
            self._host_nft = await self.outside.made(self._outer, Nft)
            await self.outside.run(self._host_nft.tables)
        return self._host_nft

    async def fix_neighbours(self, state: InterfaceState) -> None:
        """Tell the node the pod's hardware address for good, as a held pod does not say it.

        Otherwise the node would ask, and call the pod unreachable after some seconds.
        """
        await self.outside.run(
            self.host_netlink.fix_neighbours, self.host_device, state.global_addresses, state.mac
        )

    async def loosen_neighbours(self, state: InterfaceState) -> None:
        """Have the node ask for the pod's hardware address again, as it does with any pod."""
        await self.outside.run(self.host_netlink.loosen_neighbours, state.global_addresses)

    async def close_inside(self) -> None:
        """Let go of the pod's namespace; the node's side goes on. Safe to repeat."""
        self.closed = True
        await in_thread(self._inner.close, lane=Lane.PAUSE)

    async def close(self) -> None:
        """Let go of both sides. Safe to repeat."""
        async with contextlib.AsyncExitStack() as steps:
            steps.push_async_callback(in_thread, self._outer.close, lane=Lane.PAUSE)
            if hasattr(self, "tap"):
                steps.callback(self.tap.stop)
            await self.close_inside()
