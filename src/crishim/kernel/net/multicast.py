"""In which multicast groups a socket is, and how it gets into them again.

The kernel does not list the groups of a socket. It lists those of a network namespace by interface,
and it answers for one socket, group and interface which sources are let through: so each group is
asked for. A source filter goes along with its membership.

Source: ip(7); RFC 3678; linux/in.h (group_req, group_filter); net/ipv4/igmp.c.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

_MCAST_JOIN_GROUP = 42
_MCAST_MSFILTER = 48
_EXCLUDE = 0
_NO_MEMBER = (
    errno.EADDRNOTAVAIL,
    errno.ENOPROTOOPT,  # a raw socket of IPv6, asked for a group of IPv4, which it cannot join
)
_SOURCES = 64  # what a node lets through by default (igmp_max_msf, mld_max_msf); it may let more
_STORAGE_BYTES = 128
_FILTER = struct.Struct("=I4x128sII")
_REQUEST = struct.Struct("=I4x128s")
_libc = ctypes.CDLL(None, use_errno=True)
_LEVELS: dict[int, int] = {socket.AF_INET: socket.IPPROTO_IP, socket.AF_INET6: socket.IPPROTO_IPV6}


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A multicast group on one interface of a namespace.

    Attributes:
        family: AF_INET or AF_INET6.
        address: of the group, packed.
    """

    family: int
    interface: str
    address: bytes

    def __str__(self) -> str:
        """Name the group for people."""
        return f"{socket.inet_ntop(self.family, self.address)} on {self.interface}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """A socket's place in a group.

    Attributes:
        exclude: the sources are those that are not let through; else the only ones that are.
        sources: packed addresses.
    """

    group: Group
    exclude: bool
    sources: tuple[bytes, ...]


def groups() -> list[Group]:
    """Return the groups that anything in the calling thread's network namespace is in."""
    net = Path("/proc/thread-self/net")
    return _parse_igmp(_read(net / "igmp")) + _parse_igmp6(_read(net / "igmp6"))


def memberships(sock: socket.socket, among: list[Group]) -> list[Membership]:
    """Return those groups that a socket is in.

    Args: among: of the namespace that the socket and the calling thread live in.
    Raises: OSError: nobody knows, for instance because an interface has gone meanwhile.
    """
    if sock.family not in _LEVELS or sock.type & 0xF == socket.SOCK_STREAM:
        return []
    found = (_membership(sock, group) for group in among if sock.family >= group.family)
    return [item for item in found if item is not None]


def join(sock: socket.socket, membership: Membership) -> None:
    """Make a socket a member of a group, as it was; one that is a member already is fine.

    Raises: OSError: there is no such interface, or the kernel refuses.
    """
    group = membership.group
    index, level = socket.if_nametoindex(group.interface), _LEVELS[group.family]
    address = _storage(group.family, group.address)
    try:
        sock.setsockopt(level, _MCAST_JOIN_GROUP, _REQUEST.pack(index, address))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
    if membership.sources or not membership.exclude:
        head = _FILTER.pack(index, address, int(not membership.exclude), len(membership.sources))
        body = b"".join(_storage(group.family, source) for source in membership.sources)
        sock.setsockopt(level, _MCAST_MSFILTER, head + body)


def _membership(sock: socket.socket, group: Group) -> Membership | None:
    level, index = _LEVELS[group.family], socket.if_nametoindex(group.interface)
    address = _storage(group.family, group.address)
    room, count = 0, _SOURCES
    while count > room:  # the kernel says how many there are, and gives what there is room for
        room = count
        question = _FILTER.pack(index, address, _EXCLUDE, room)
        try:
            answer = _ask(sock, level, question + bytes(room * _STORAGE_BYTES))
        except OSError as error:
            if error.errno not in _NO_MEMBER:
                raise
            return None
        _, _, mode, count = _FILTER.unpack_from(answer)
    sources = tuple(
        _address(group.family, answer[at : at + _STORAGE_BYTES])
        for at in range(_FILTER.size, _FILTER.size + count * _STORAGE_BYTES, _STORAGE_BYTES)
    )
    return Membership(group=group, exclude=mode == _EXCLUDE, sources=sources)


def _ask(sock: socket.socket, level: int, question: bytes) -> bytes:
    """Return the answer to a getsockopt whose buffer holds a question, which Python's cannot."""
    buffer = ctypes.create_string_buffer(question, len(question))
    size = ctypes.c_uint32(len(question))
    if _libc.getsockopt(sock.fileno(), level, _MCAST_MSFILTER, buffer, ctypes.byref(size)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return buffer.raw


def _storage(family: int, address: bytes) -> bytes:
    """Return a sockaddr_storage without a port."""
    port = bytes(2 if family == socket.AF_INET else 6)  # and the label of a flow
    return (struct.pack("=H", family) + port + address).ljust(_STORAGE_BYTES, b"\0")


def _address(family: int, storage: bytes) -> bytes:
    return storage[4:8] if family == socket.AF_INET else storage[8:24]


def _parse_igmp(text: str) -> list[Group]:
    """Read /proc/net/igmp: a line per interface, below it one per group, as a number."""
    found: list[Group] = []
    interface = ""
    for line in text.split("\n")[1:]:
        words = line.split()
        if not line.startswith("\t"):
            # The colon after the name stands apart only where the name is short.
            interface = words[1].removesuffix(":") if len(words) > 1 else ""
        elif interface and words:
            address = int(words[0], 16).to_bytes(4, sys.byteorder)
            found.append(Group(family=socket.AF_INET, interface=interface, address=address))
    return found


def _parse_igmp6(text: str) -> list[Group]:
    """Read /proc/net/igmp6: a line per group."""
    lines = [line.split() for line in text.split("\n")]
    return [
        Group(family=socket.AF_INET6, interface=words[1], address=bytes.fromhex(words[2]))
        for words in lines
        if len(words) > 2
    ]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:  # a node without IPv6
        return ""
