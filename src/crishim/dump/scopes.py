"""Mend what CRIU writes of a socket that is bound to an IPv6 multicast group of a link.

Such an address needs its interface (`ff02::fb`, as mDNS has it). CRIU 4.2 means to save it, tests
for such groups with a wrong mask, and restores the socket without: its bind is refused, and with it
every restore. The interface stands in the same entry, because the kernel binds the socket to it.
Pure: an entry of files.img in, an entry out (`criuimages.mend_files`).
Source: criu/sk-inet.c of CRIU 4.2 (needs_scope_id); net/ipv6/af_inet6.c.
"""

from __future__ import annotations

import socket

from crishim._proto.criu import images_pb2

_SOCKET_TAG = b"\x22"
"""Field 4 of an entry, length-delimited: entries without it need no parsing."""
_OF_A_LINK = (1, 2)  # interface-local and link-local scope


def name_interface(body: bytes) -> bytes:
    """Name the interface of a socket that is bound to a group of a link; b"" for all others."""
    if _SOCKET_TAG not in body or b"\xff" not in body:
        return b""
    entry = images_pb2.File.FromString(body)
    item = entry.isk
    if item.family != socket.AF_INET6 or not item.src_port or item.ifname:
        return b""
    address = b"".join(word.to_bytes(4, "little") for word in item.src_addr)
    if not of_a_link(address) or not item.opts.so_bound_dev:
        return b""
    item.ifname = item.opts.so_bound_dev
    return entry.SerializeToString()


def of_a_link(address: bytes) -> bool:
    """Return whether a packed IPv6 address is a multicast group that needs its interface."""
    return address[:1] == b"\xff" and address[1] & 0xF in _OF_A_LINK
