"""Ask a network segment whether somebody has an address already.

The questions are those of duplicate address detection: they carry no address of ours, so nobody's
neighbour table changes by them.

Source: RFC 5227 section 2.1 (ARP probe), RFC 4862 section 5.4 (IPv6).
"""

from __future__ import annotations

import ipaddress
import select
import socket
import struct
import time
from typing import TYPE_CHECKING

from crishim.kernel.net.packet import icmpv6_checksum

if TYPE_CHECKING:
    from collections.abc import Iterable

_ETH_P_ALL = 0x0003
_ARP = 0x0806
_IPV6 = 0x86DD
_NEIGHBOUR_ADVERTISEMENT = 136
_RECEIVE_BYTES = 2048


def question(address: str, mac: str) -> bytes:
    """Build the frame that asks who has `address`; `mac` is the asking interface's."""
    ip = ipaddress.ip_address(address)
    hardware = bytes.fromhex(mac.replace(":", ""))
    if ip.version == 4:
        header = struct.pack("!6s6sHHHBBH", b"\xff" * 6, hardware, _ARP, 1, 0x0800, 6, 4, 1)
        return header + hardware + bytes(4) + bytes(6) + ip.packed
    group = ipaddress.ip_address("ff02::1:ff00:0").packed[:13] + ip.packed[13:]
    body = struct.pack("!BBHI16s", 135, 0, 0, 0, ip.packed)
    body = body[:2] + struct.pack("!H", icmpv6_checksum(bytes(16), group, body)) + body[4:]
    header = struct.pack("!IHBB16s16s", 6 << 28, len(body), 58, 255, bytes(16), group)
    return struct.pack("!2s4s6sH", b"\x33\x33", group[12:], hardware, _IPV6) + header + body


def answer(frame: bytes) -> tuple[str, str] | None:
    """Return the address and MAC that a frame claims, if it is an ARP or ND answer."""
    if len(frame) >= 42 and frame[12:14] == b"\x08\x06" and frame[20:22] == b"\x00\x02":
        return socket.inet_ntop(socket.AF_INET, frame[28:32]), frame[22:28].hex(":")
    if (
        len(frame) >= 78
        and frame[12:14] == b"\x86\xdd"
        and frame[20] == socket.IPPROTO_ICMPV6
        and frame[54] == _NEIGHBOUR_ADVERTISEMENT
    ):
        return socket.inet_ntop(socket.AF_INET6, frame[62:78]), frame[6:12].hex(":")
    return None


def probe(
    interface: str, addresses: Iterable[str], *, mac: str, timeout_s: float
) -> dict[str, str]:
    """Ask who has the addresses and return those taken, with the MAC of who has each.

    Blocks for `timeout_s` unless all of them are taken; run it in a thread of the namespace.
    """
    wanted = {str(ipaddress.ip_address(address)) for address in addresses}
    taken: dict[str, str] = {}
    with socket.socket(
        socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0
    ) as sock:
        sock.bind((interface, _ETH_P_ALL))
        for address in wanted:
            sock.send(question(address, mac))
        # Not select(2), which cannot take the high descriptors of a busy daemon.
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        deadline = time.monotonic() + timeout_s
        while wanted - set(taken) and (left_s := deadline - time.monotonic()) > 0:
            if not poll.poll(left_s * 1000):
                break
            claim = answer(sock.recv(_RECEIVE_BYTES))
            if claim is not None and claim[0] in wanted:
                taken[claim[0]] = claim[1]
    return taken
