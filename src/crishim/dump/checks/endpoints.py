"""Refuse sockets that a dump could not keep: the preflight's look at what is connected to what.

The kernel's socket lists and the container's open files meet by inode. What is refused is named by
its program, because a user knows programs and not sockets.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crishim.aio.shield import in_thread
from crishim.errors import Precondition, Unsupported
from crishim.kernel import procs
from crishim.kernel.net.netns import NetnsThread
from crishim.kernel.net.sockdiag import SockDiag, TcpState
from crishim.modes import TcpMode
from crishim.network import podnetwork

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from crishim.container.resolve import Source
    from crishim.dump.request import DumpRequest
    from crishim.kernel.net.sockdiag import InetSocket, UnixSocket
    from crishim.network.podnetwork import PodNetwork

_CONNECTED = (
    TcpState.ESTABLISHED,
    TcpState.SYN_SENT,
    TcpState.FIN_WAIT1,
    TcpState.FIN_WAIT2,
    TcpState.CLOSE_WAIT,
    TcpState.LAST_ACK,
    TcpState.CLOSING,
)
_NAMED_MAX = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The sockets of a network namespace: MPTCP, connected TCP, other TCP and UDP, UNIX."""

    mptcp: Sequence[InetSocket]
    connected: Sequence[InetSocket]
    bound: Sequence[InetSocket]
    unix: Sequence[UnixSocket]


async def check(
    source: Source, request: DumpRequest, *, inodes: Collection[int], pids: Sequence[int]
) -> None:
    """Look at the sockets that a container has open.

    Args: inodes: of its sockets. pids: its processes.
    Raises: Precondition, Unsupported: the first one that cannot be kept.
    """
    if not inodes:
        return
    async with NetnsThread(source.sandbox.netns or None) as inside:
        listing = await inside.run(_look)
    network = await podnetwork.look(netns) if (netns := source.sandbox.netns) else None

    def refuse_what_cannot_be_kept() -> None:
        def owner(inode: int, within: Sequence[int] | None) -> str:
            pid = procs.socket_owner(inode, within)
            return procs.title(pid) if pid else "a process that is not to be found"

        refuse_mptcp(listing, inodes, lambda inode: owner(inode, pids))
        refuse_connections(
            listing, inodes, tcp=request.tcp, host_network=source.sandbox.host_network
        )
        if network is not None:
            refuse_unheld(listing, inodes, request, network)
            refuse_other_interfaces(
                listing, inodes, request, network, lambda inode: owner(inode, pids)
            )
        refuse_halves(
            listing, inodes, lambda inode: owner(inode, pids if inode in inodes else None)
        )

    await in_thread(refuse_what_cannot_be_kept)


def refuse_mptcp(listing: Listing, inodes: Collection[int], owner: Callable[[int], str]) -> None:
    """Refuse MPTCP sockets; CRIU has no way to dump them."""
    for item in listing.mptcp:
        if item.inode in inodes:
            raise Unsupported(
                f"{owner(item.inode)} has an MPTCP socket at {item.local_end}, which CRIU cannot "
                "dump",
                hint="set net.mptcp.enabled=0 in the pod, or GODEBUG=multipathtcp=0 for a Go "
                "program, and restart it",
            )


def refuse_connections(
    listing: Listing, inodes: Collection[int], *, tcp: str, host_network: bool
) -> None:
    """Refuse open connections where they were not wanted, and where they cannot move."""
    ends = [
        f"{item.local_end} to {item.remote_end}"
        for item in listing.connected
        if item.inode in inodes
    ]
    if not ends or tcp == "close":
        return
    more = f" and {len(ends) - _NAMED_MAX} more" * (len(ends) > _NAMED_MAX)
    named = ", ".join(ends[:_NAMED_MAX]) + more
    if tcp == "refuse":
        raise Precondition(f"the container has open TCP connections: {named}")
    if host_network:
        raise Unsupported(
            "the pod is on the node's network, whose address its TCP connections cannot take "
            f"along: {named}",
            hint="checkpoint it with --tcp close",
        )


def refuse_unheld(
    listing: Listing, inodes: Collection[int], request: DumpRequest, network: PodNetwork
) -> None:
    """Refuse to keep connections where no hold can stand: the pod's eth0 has no end on the node.

    With `stop` a listener counts too: whoever connects in the pause would lose that connection.
    """
    asked = (*listing.connected, *(listing.bound if request.stop else ()))
    if network.holdable or request.tcp == TcpMode.CLOSE:
        return
    if any(item.inode in inodes for item in asked):
        raise Unsupported(
            f"the pod's eth0 is {network.kind or 'no veth'} and has no end on the node, where its "
            "connections could be held",
            hint="checkpoint it with --tcp close",
        )


def refuse_other_interfaces(
    listing: Listing,
    inodes: Collection[int],
    request: DumpRequest,
    network: PodNetwork,
    owner: Callable[[int], str],
) -> None:
    """Refuse sockets with an address of another interface than eth0: no new pod would have it.

    A checkpoint that closes the connections, of a container that goes on, is let pass: whoever
    restores it gives the new pod that address himself.
    """
    closed = request.tcp == TcpMode.CLOSE
    asked = () if closed else listing.connected
    for item in (*asked, *(() if closed and not request.stop else listing.bound)):
        name = network.others.get(item.local.removeprefix("::ffff:"))
        if name and item.inode in inodes:
            raise Unsupported(
                f"{owner(item.inode)} has a socket at {item.local_end}, an address of {name}: a "
                "new pod has only that of eth0",
                hint="checkpoint it with --tcp close and without stopping it"
                if item in listing.bound
                else "checkpoint it with --tcp close",
            )


def refuse_halves(listing: Listing, inodes: Collection[int], owner: Callable[[int], str]) -> None:
    """Refuse UNIX connections whose other end lies outside; CRIU keeps external datagrams only."""
    names = {item.inode: item.name for item in listing.unix}
    for item in listing.unix:
        halved = item.inode in inodes and item.peer_inode and item.peer_inode not in inodes
        if halved and item.kind != socket.SOCK_DGRAM:
            name = names.get(item.peer_inode) or item.name
            raise Precondition(
                f"{owner(item.inode)} has a UNIX connection to {owner(item.peer_inode)}, which "
                "lies outside the container",
                details=name,
                hint="end that connection first",
            )


def _look() -> Listing:
    with contextlib.closing(SockDiag()) as diag:
        return Listing(
            mptcp=diag.mptcp(),
            connected=diag.tcp(_CONNECTED),
            bound=[*diag.tcp((TcpState.LISTEN, TcpState.CLOSE)), *diag.udp()],
            unix=diag.unix(),
        )
