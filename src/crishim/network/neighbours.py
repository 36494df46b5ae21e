"""What the node is told of hardware addresses that a hold keeps pods from telling themselves.

A held pod answers neither ARP nor neighbour discovery. The node would ask, give up after seconds
and send the pod's clients ICMP errors; so it has a permanent entry for as long as the hold stands.
Entries of ours are marked in the kernel: one that a crash left is found without a record of it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from crishim.kernel.net.netlink import Netlink
from crishim.kernel.net.netns import NetnsThread
from crishim.network.podlink import PodLink

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from crishim.kernel.net.interface import InterfaceState


async def fix(netns: str, state: InterfaceState) -> None:
    """Tell the node the hardware address of a pod that is held already.

    Args: netns: path of the pod's network namespace. state: its interface.
    Raises: NotFound, Precondition: as `PodLink.open`.
    """
    link = await PodLink.open(netns)
    try:
        await link.fix_neighbours(state)
    finally:
        await link.close()


async def loosen(addresses: Collection[str]) -> None:
    """Have the node ask again for the hardware addresses of what was held."""
    async with NetnsThread(None) as thread:
        await thread.run(_loosen, lambda _: addresses)


def sweep(*, keep: Collection[str]) -> None:
    """Loosen what a crash has left fixed but these addresses; blocks for a moment."""
    with contextlib.closing(NetnsThread(None)) as thread:
        thread.call(_loosen, lambda fixed: fixed - set(keep))


def _loosen(choose: Callable[[frozenset[str]], Collection[str]]) -> None:
    with contextlib.closing(Netlink()) as netlink:
        netlink.loosen_neighbours(choose(netlink.fixed_neighbours()))
