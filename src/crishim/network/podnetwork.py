"""What interfaces a pod has, and which of its connections a dump can keep: those of a veth's eth0.

A hold needs the node's end of a veth. Other kinds of interfaces (macvlan, ipvlan, a device of
SR-IOV) have none, and further interfaces beside eth0 are found in no new pod again by us.
Nothing is changed or decided here.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crishim.errors import NotFound, Precondition
from crishim.kernel.net.netlink import Netlink
from crishim.kernel.net.netns import NetnsThread
from crishim.network.podlink import INTERFACE

if TYPE_CHECKING:
    from collections.abc import Mapping

_LOOPBACK = ("127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class PodNetwork:
    """The interfaces of a pod.

    Attributes:
        kind: of eth0, such as "veth" or "macvlan"; "" for a device of the node or for none at all.
        holdable: eth0 is a veth whose other end is on this node.
        others: names of further interfaces by their addresses; loopback's own are left out.
    """

    kind: str
    holdable: bool
    others: Mapping[str, str]


async def look(netns: str) -> PodNetwork:
    """Look into a pod's network namespace; raise NotFound if it is gone."""
    async with NetnsThread(netns) as inside, NetnsThread(None) as outside:
        kind, ends, others = await inside.run(_look)
        holdable = ends is not None and await outside.run(_has_end, netns, *ends)
    return PodNetwork(kind=kind, holdable=holdable, others=others)


def _look() -> tuple[str, tuple[int, int] | None, dict[str, str]]:
    with contextlib.closing(Netlink()) as netlink:
        others = {
            address: name
            for name, addresses in netlink.addresses_by_name().items()
            for address in addresses
            if name != INTERFACE and address not in _LOOPBACK
        }
        try:
            kind = netlink.kind(INTERFACE)
            return kind, (netlink.peer_index(INTERFACE), netlink.index(INTERFACE)), others
        except NotFound:
            return "", None, others
        except Precondition:
            return kind, None, others


def _has_end(netns: str, index: int, peer_index: int) -> bool:
    with contextlib.closing(Netlink()) as netlink:
        try:
            netlink.find_peer(netns, index=index, peer_index=peer_index)
        except NotFound:
            return False
    return True
