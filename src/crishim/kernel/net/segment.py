"""Caught frames: what they carry (TCP, UDP out of Ethernet), which say the same, what refuses them.

Pure: bytes in, values and bytes out.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

VNET_HDR_BYTES = 10
"""The virtio_net_hdr before each frame that a `Tap` caught."""

_DATA_OFFSET = 12
_FLAGS = 13
_HEADER_BYTES = 20
_SYN, _RST, _ACK = 0x02, 0x04, 0x10
_HOPS = 64


@dataclass(frozen=True, slots=True)
class Frame:
    """One caught frame: when it was read (time.monotonic_ns), and its bytes with their header."""

    caught_ns: int
    data: bytes

    @property
    def ethernet(self) -> bytes:
        """The frame as it is on a wire, without the virtio_net_hdr."""
        return self.data[VNET_HDR_BYTES:]


def transport(frame: bytes) -> tuple[int, str, str, bytes] | None:
    """Return protocol, source, destination and the rest from the TCP or UDP header on.

    Args: frame: with its Ethernet header.
    Returns: None for anything else, fragments of IPv6 and extension headers included.
    """
    kind, packet = frame[12:14], frame[14:]
    if kind == b"\x08\x00" and len(packet) >= 20:
        family, protocol, at, ends = socket.AF_INET, packet[9], (packet[0] & 15) * 4, (12, 16, 20)
    elif kind == b"\x86\xdd" and len(packet) >= 40:
        family, protocol, at, ends = socket.AF_INET6, packet[6], 40, (8, 24, 40)
    else:
        return None
    size = {socket.IPPROTO_TCP: 20, socket.IPPROTO_UDP: 8}.get(protocol)
    if size is None or len(packet) < at + size:
        return None
    source = socket.inet_ntop(family, packet[ends[0] : ends[1]])
    destination = socket.inet_ntop(family, packet[ends[1] : ends[2]])
    return protocol, source, destination, packet[at:]


def without_repeats(frames: Iterable[Frame]) -> list[Frame]:
    """Leave out what other frames say too: of retransmissions only the last, in the first's place.

    A client that ended its direction repeats its FIN while nobody answers. Given all of them, a
    process that closes its socket after the first would have its kernel answer the rest with RST.
    """
    last: dict[object, Frame] = {}
    for index, frame in enumerate(frames):
        last[_said(frame.ethernet) or index] = frame
    return list(last.values())


def _said(frame: bytes) -> tuple[bytes, bytes, int, bytes] | None:
    """Return addresses, ports with sequence number, flags and data of a TCP segment."""
    if frame[12:14] == b"\x08\x00" and len(frame) >= 54 and frame[23] == socket.IPPROTO_TCP:
        ends, segment = frame[26:34], frame[14 + (frame[14] & 15) * 4 :]
    elif frame[12:14] == b"\x86\xdd" and len(frame) >= 74 and frame[20] == socket.IPPROTO_TCP:
        ends, segment = frame[22:54], frame[54:]
    else:
        return None
    if len(segment) < _HEADER_BYTES:
        return None
    data = segment[(segment[_DATA_OFFSET] >> 4) * 4 :]
    return ends, segment[:8], segment[_FLAGS], data


def refusals(frames: Iterable[Frame]) -> dict[str, list[bytes]]:
    """Return what ends the connections that TCP segments belong to: one reset for each of them.

    Returns: IP packets by the address they are for.
    Source: RFC 9293, 3.10.7.1: what a host answers that knows no such connection.
    """
    last: dict[tuple[str, str, bytes], bytes] = {}
    for frame in frames:
        found = transport(frame.ethernet)
        if found is not None and found[0] == socket.IPPROTO_TCP:
            _, source, destination, segment = found
            if not segment[_FLAGS] & _RST:
                last[source, destination, segment[:4]] = segment
    packets: dict[str, list[bytes]] = {}
    for (source, destination, _), segment in last.items():
        packets.setdefault(source, []).append(_refusal(segment, sender=destination, to=source))
    return packets


def _refusal(segment: bytes, *, sender: str, to: str) -> bytes:
    theirs, ours, sequence, acknowledged = struct.unpack("!HHII", segment[:12])
    if segment[_FLAGS] & _ACK:
        numbers = (acknowledged, 0, 5 << 4, _RST)
    else:
        begins = bool(segment[_FLAGS] & _SYN)
        numbers = (0, (sequence + begins) % (1 << 32), 5 << 4, _RST | _ACK)
    reset = struct.pack("!HHIIBBHHH", ours, theirs, *numbers, 0, 0, 0)
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    ends = socket.inet_pton(family, sender) + socket.inet_pton(family, to)
    total = checksum(ends + struct.pack("!II", len(reset), socket.IPPROTO_TCP) + reset)
    reset = reset[:16] + struct.pack("!H", total) + reset[18:]
    if family == socket.AF_INET6:
        header = struct.pack("!IHBB", 6 << 28, len(reset), socket.IPPROTO_TCP, _HOPS)
    else:
        # The kernel fills in length, identification and checksum of a raw packet's header.
        header = struct.pack("!BBHHHBBH", 0x45, 0, 0, 0, 0, _HOPS, socket.IPPROTO_TCP, 0)
    return header + ends + reset


def checksum(data: bytes) -> int:
    """Return the internet checksum of an even number of bytes; RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return ~total & 0xFFFF
