"""Options of sockets that CRIU does not save, and that may be set on a socket at any time.

An option is remembered only where it differs from that of a fresh socket of the same kind in the
same namespace: so what the node's administrator has set as a default is not carried to another
node. Values are what getsockopt has returned, and setsockopt takes them back, except for numbers of
interfaces, which are others in another pod.

Not here, because the kernel does not tell them: the interface of IP_MULTICAST_IF where it was given
by its number, MD5 and AO keys, programs of eBPF, SO_INCOMING_CPU.

Source: socket(7), ip(7), ipv6(7), udp(7), tcp(7), netlink(7); linux/in.h, in6.h, tcp.h, udp.h;
criu/sockets.c, sk-inet.c and sk-tcp.c of CRIU 4.2 for what is saved.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_SOL_NETLINK = 270
_IP, _IPV6, _TCP, _UDP = (
    socket.IPPROTO_IP,
    socket.IPPROTO_IPV6,
    socket.IPPROTO_TCP,
    socket.IPPROTO_UDP,
)
_VALUE_BYTES_MAX = 16

# Old and new forms of timestamps, what comes with a message, pacing, polling. SO_LOCK_FILTER last.
_ANY = (1, 29, 35, 37, 63, 64, 65, 40, 41, 42, 43, 45, 46, 47, 60, 61, 69, 70, 73, 74, 75, 76, 82,
        83, 44)  # fmt: skip
_V4 = (6, 7, 10, 11, 12, 13, 18, 19, 20, 21, 23, 24, 25, 26, 32, 33, 34, 49, 50, 51)
_V6 = (11, 16, 17, 18, 19, 23, 25, 29, 31, 33, 51, 53, 56, 58, 60, 62, 66, 67, 70, 72, 73, 74, 75,
       76, 77)  # fmt: skip
_V4_MULTICAST, _V6_MULTICAST = (32, 33, 34, 49), (17, 18, 19, 29)  # of no use to a connection
_OF_UDP = (100, 101, 102, 103, 104)
_OF_TCP = (7, 8, 9, 13, 16, 18, 23, 25, 27, 34, 36, 37, 44, 45, 46)
_OF_NETLINK = (3, 4, 5, 8, 10, 11, 12)

_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
_INDEX_ORDER = {(_IP, 50): "big", (_IPV6, 76): "big", (_IPV6, 17): sys.byteorder}


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """An option and its value.

    Attributes:
        interface: the name of the interface that the value is the number of; "" for none.
    """

    level: int
    name: int
    value: bytes
    interface: str = ""

    def __str__(self) -> str:
        """Name the option for people, as the C headers do where Python knows the name."""
        prefixes = {_IP: "IP_", _IPV6: "IPV6_", _TCP: "TCP_", _UDP: "UDP_", 1: "SO_"}
        prefix = prefixes.get(self.level)
        for word, number in vars(socket).items():
            if prefix and word.startswith(prefix) and number == self.name:
                return word
        return f"option {self.name} of level {self.level}"


class Defaults:
    """What fresh sockets have in the network namespace of the calling thread; asked for once."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, int], list[tuple[int, int, bytes]]] = {}

    def changed(self, sock: socket.socket) -> list[Option]:
        """Return the options of a socket that a fresh one has otherwise."""
        kind = (sock.family, sock.type & 0xF, sock.proto)
        if kind not in self._known:
            self._known[kind] = _fresh(kind)
        return [
            Option(level=level, name=name, value=value, interface=_interface(level, name, value))
            for level, name, usual in self._known[kind]
            if (value := _value(sock, level, name)) not in (usual, None)
        ]


def put(sock: socket.socket, option: Option) -> None:
    """Set an option as it was.

    Raises: OSError: the kernel refuses, there is no such interface, or it is none of these options.
    """
    if (option.level, option.name) not in _options(sock.family, sock.type & 0xF, sock.proto):
        raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))
    value = option.value
    if option.interface:
        index = socket.if_nametoindex(option.interface)
        order = _INDEX_ORDER[option.level, option.name]
        value = index.to_bytes(4, "big" if order == "big" else "little")
    sock.setsockopt(option.level, option.name, value)


def _fresh(kind: tuple[int, int, int]) -> list[tuple[int, int, bytes]]:
    """Return the options of a fresh socket as level, name, value; none for a kind we cannot make.

    What the kernel does not know of such a socket is not asked again of any other.
    """
    if kind[0] not in _FAMILIES:
        return []
    try:
        with socket.socket(*kind) as sock:
            asked = [(level, name, _value(sock, level, name)) for level, name in _options(*kind)]
            return [(level, name, value) for level, name, value in asked if value is not None]
    except OSError:
        return []


def _value(sock: socket.socket, level: int, name: int) -> bytes | None:
    try:
        return sock.getsockopt(level, name, _VALUE_BYTES_MAX)
    except OSError:
        return None


def _options(family: int, kind: int, protocol: int) -> Iterator[tuple[int, int]]:
    stream = kind == socket.SOCK_STREAM
    if family == socket.AF_NETLINK:
        yield from ((_SOL_NETLINK, name) for name in _OF_NETLINK)
    if family == socket.AF_INET6:
        yield from ((_IPV6, name) for name in _V6 if not (stream and name in _V6_MULTICAST))
        yield from ((_IP, name) for name in (1, 2))  # CRIU saves them of IPv4 sockets
    if family in (socket.AF_INET, socket.AF_INET6):
        yield from ((_IP, name) for name in _V4 if not (stream and name in _V4_MULTICAST))
    if protocol == _TCP and stream:
        yield from ((_TCP, name) for name in _OF_TCP)
    if protocol == _UDP and kind == socket.SOCK_DGRAM:
        yield from ((_UDP, name) for name in _OF_UDP)
    yield from ((socket.SOL_SOCKET, name) for name in _ANY)


def _interface(level: int, name: int, value: bytes) -> str:
    order = _INDEX_ORDER.get((level, name))
    if order is None:
        return ""
    index = int.from_bytes(value[:4], "big" if order == "big" else "little")
    with contextlib.suppress(OSError):
        return socket.if_indextoname(index)
    return ""
