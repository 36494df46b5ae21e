"""The sockets of one container in a pod whose other containers go on. Pure.

Only these are held then: established connections by their four ends, loopback included, and what
comes in for its listening and UDP ports. The kernel drops by rules made from this; `matches` says
the same of a caught frame, so that nothing is sent again that was delivered.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crishim.kernel.net.segment import transport
from crishim.kernel.net.sockdiag import TcpState

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from crishim.kernel.net.sockdiag import InetSocket

_SYN_ACK = 0x12
_SYN = 0x02
_UNCONNECTED = (TcpState.LISTEN, TcpState.CLOSE, TcpState.TIME_WAIT)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Connection:
    """A TCP connection by its ends."""

    local: str
    local_port: int
    remote: str
    remote_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldSockets:
    """What is held of a pod: connections, ports of listeners, ports of UDP sockets."""

    connections: frozenset[Connection] = frozenset()
    tcp_ports: frozenset[int] = frozenset()
    udp_ports: frozenset[int] = frozenset()

    def matches(self, frame: bytes) -> bool:
        """Whether an Ethernet frame on its way into the pod is for one of these sockets."""
        parsed = transport(frame)
        if parsed is None:
            return False
        protocol, source, destination, body = parsed
        source_port, destination_port = struct.unpack_from("!HH", body)
        if protocol == socket.IPPROTO_UDP:
            return destination_port in self.udp_ports
        connection = Connection(
            local=destination,
            local_port=destination_port,
            remote=source,
            remote_port=source_port,
        )
        begins = body[13] & _SYN_ACK == _SYN and destination_port in self.tcp_ports
        return begins or connection in self.connections


def held_sockets(
    tcp: Iterable[InetSocket], udp: Iterable[InetSocket], *, inodes: Collection[int]
) -> HeldSockets:
    """Pick out of a namespace's sockets those that a container's processes have open.

    Args: inodes: of the sockets among the processes' file descriptors.
    """
    mine = [item for item in tcp if item.inode in inodes]
    return HeldSockets(
        connections=frozenset(
            Connection(
                local=_plain(item.local),
                local_port=item.local_port,
                remote=_plain(item.remote),
                remote_port=item.remote_port,
            )
            for item in mine
            if item.state not in _UNCONNECTED
        ),
        tcp_ports=frozenset(item.local_port for item in mine if item.state == TcpState.LISTEN),
        udp_ports=frozenset(item.local_port for item in udp if item.inode in inodes),
    )


def _plain(address: str) -> str:
    """Return the IPv4 address that an IPv6 socket shows as ::ffff:a.b.c.d."""
    ip = ipaddress.ip_address(address)
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return str(mapped or ip)
