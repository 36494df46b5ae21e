"""Datagrams that wait in a UDP socket: looked at without taking them, and delivered once more.

A socket's queue is looked through by its peek offset, as CRIU does it for UNIX sockets; what was
set for that is set back, and is nothing that CRIU saves: it may be at work on the same socket. A
datagram is delivered by a raw packet to the address that it came for, with the sender that it had:
the kernel routes what is meant for an address of its own to itself, past every interface but the
loopback.

Source: socket(7) SO_PEEK_OFF, ip(7) IP_RECVORIGDSTADDR, raw(7); RFC 768.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import struct
from dataclasses import dataclass
from typing import TypeAlias

_SO_PEEK_OFF = 42
_UDP_GRO = 104
_IP_ORIGDSTADDR, _IPV6_ORIGDSTADDR = 20, 74
_BYTES_MAX = 1 << 16
_TOTAL_BYTES_MAX = 4 << 20
_HOPS = 64

IPv4: TypeAlias = ipaddress.IPv4Address
IPv6: TypeAlias = ipaddress.IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Datagram:
    """One datagram; both addresses are of the same family."""

    source: str
    source_port: int
    destination: str
    destination_port: int
    data: bytes


class CannotLook(Exception):
    """A queue that cannot be looked through; says why."""


def waiting(sock: socket.socket) -> list[Datagram]:
    """Return what waits in the queue of a UDP socket, whose owner stands still.

    Raises: CannotLook: it is shared with other sockets, merges datagrams, is too long, or holds
        what came for a group.
    """
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
        raise CannotLook("the port is shared with other sockets")
    with contextlib.suppress(OSError):
        if sock.getsockopt(socket.IPPROTO_UDP, _UDP_GRO):
            raise CannotLook("the socket merges datagrams")
    options = [(socket.SOL_SOCKET, _SO_PEEK_OFF, 0), (socket.IPPROTO_IP, _IP_ORIGDSTADDR, 1)]
    if sock.family == socket.AF_INET6:
        options.append((socket.IPPROTO_IPV6, _IPV6_ORIGDSTADDR, 1))
    with contextlib.ExitStack() as undo:
        for level, name, value in options:
            undo.callback(sock.setsockopt, level, name, sock.getsockopt(level, name))
            sock.setsockopt(level, name, value)
        return _peek_all(sock)


def _peek_all(sock: socket.socket) -> list[Datagram]:
    found: list[Datagram] = []
    total = 0
    flags = socket.MSG_PEEK | socket.MSG_DONTWAIT
    while True:
        try:
            data, extra, _, sender = sock.recvmsg(_BYTES_MAX, 256, flags)
        except BlockingIOError:
            return found
        total += len(data)
        if total > _TOTAL_BYTES_MAX:
            raise CannotLook("it is too much")
        found.append(
            Datagram(
                source=_plain(sender[0]),
                source_port=sender[1],
                destination=_destination(extra),
                destination_port=sock.getsockname()[1],
                data=data,
            )
        )


def deliver(item: Datagram) -> None:
    """Send a datagram to this namespace's own address as if it had just come.

    Raises: OSError: the kernel refuses, or the address is none of ours. ValueError: it is no
        datagram.
    """
    if not is_own(item.destination):
        raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    source, destination = ipaddress.ip_address(item.source), ipaddress.ip_address(item.destination)
    size = 8 + len(item.data)
    header = struct.pack("!HHHH", item.source_port, item.destination_port, size, 0)
    pseudo = source.packed + destination.packed + struct.pack("!IHBB", size, 0, 0, 17)
    header = header[:6] + struct.pack("!H", _checksum(pseudo + header + item.data) or 0xFFFF)
    if isinstance(source, IPv4) and isinstance(destination, IPv4):
        family = socket.AF_INET
        # The kernel fills in the length, the identification and the checksum.
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + size, 0, 0, _HOPS, 17, 0)
        packet = ip + source.packed + destination.packed
    elif isinstance(source, IPv6) and isinstance(destination, IPv6):
        family = socket.AF_INET6
        ip = struct.pack("!IHBB", 6 << 28, size, 17, _HOPS)
        packet = ip + source.packed + destination.packed
    else:
        raise ValueError("a datagram has one family")
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(packet + header + item.data, (str(destination), 0))


def _destination(extra: list[tuple[int, int, bytes]]) -> str:
    """Return the address that a datagram came for, from its control messages."""
    for level, kind, data in extra:
        if (level, kind) == (socket.IPPROTO_IP, _IP_ORIGDSTADDR):
            return _own(ipaddress.IPv4Address(data[4:8]))
        if (level, kind) == (socket.IPPROTO_IPV6, _IPV6_ORIGDSTADDR):
            address = ipaddress.IPv6Address(data[8:24])
            return _own(address.ipv4_mapped or address)
    raise CannotLook("the kernel does not tell for whom they came")


def _own(address: IPv4 | IPv6) -> str:
    """Return an address as text; raise CannotLook unless it is one of this namespace alone."""
    if not is_own(str(address)):
        raise CannotLook("some came for a group or a link")
    return str(address)


def is_own(address: str) -> bool:
    """Return whether what is sent to an address comes back to this namespace, and nobody else."""
    with contextlib.suppress(OSError):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((address, 9))
            return bool(sock.getsockname()[0] == address)
    return False


def _plain(address: str) -> str:
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, IPv6) else None
    return str(mapped or found)


def _checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
