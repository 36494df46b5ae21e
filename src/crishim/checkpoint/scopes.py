"""Mend what CRIU writes of a socket that is bound to an IPv6 multicast group of a link.

Such an address needs its interface (`ff02::fb`, as mDNS has it). CRIU 4.2 means to save it, tests
for such groups with a wrong mask, and restores the socket without: its bind is refused, and with it
every restore. The interface stands in the same entry, because the kernel binds the socket to it.
Source: criu/sk-inet.c of CRIU 4.2 (needs_scope_id); net/ipv6/af_inet6.c.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from crishim._proto.criu import images_pb2
from crishim.checkpoint.criuimages import FILES_MAGIC, HEAD_BYTES, SIZE_BYTES, bodies

if TYPE_CHECKING:
    from pathlib import Path

_SOCKET_TAG = b"\x22"
"""Field 4 of an entry, length-delimited: entries without it need no parsing."""
_OF_A_LINK = (1, 2)  # interface-local and link-local scope


def name_interfaces(images: Path) -> int:
    """Name the interface of sockets that are bound to a group of a link; blocks.

    Args: images: CRIU's image directory, dumped.
    Returns: how many there were.
    Raises: Corrupt: the image is no such image.
    """
    path = images / "files.img"
    data = path.read_bytes()
    parts = [data[:HEAD_BYTES]]
    mended = 0
    for body in bodies(data, path.name, FILES_MAGIC):
        named = _named(body) if _SOCKET_TAG in body and b"\xff" in body else b""
        mended += bool(named)
        parts += [len(named or body).to_bytes(SIZE_BYTES, "little"), named or body]
    if mended:
        path.write_bytes(b"".join(parts))
    return mended


def of_a_link(address: bytes) -> bool:
    """Return whether a packed IPv6 address is a multicast group that needs its interface."""
    return address[:1] == b"\xff" and address[1] & 0xF in _OF_A_LINK


def _named(body: bytes) -> bytes:
    """Return an entry of such a socket with its interface; b"" for all others."""
    entry = images_pb2.File.FromString(body)
    item = entry.isk
    if item.family != socket.AF_INET6 or not item.src_port or item.ifname:
        return b""
    address = b"".join(word.to_bytes(4, "little") for word in item.src_addr)
    if not of_a_link(address) or not item.opts.so_bound_dev:
        return b""
    item.ifname = item.opts.so_bound_dev
    return entry.SerializeToString()
