"""What a caught frame carries: TCP and UDP out of Ethernet, and which frames say the same. Pure."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from crishim.kernel.packet import Frame

_DATA_OFFSET = 12
_FLAGS = 13
_HEADER_BYTES = 20


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
