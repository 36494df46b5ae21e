"""Which caught frames repeat each other."""

import struct

from crishim.kernel.packet import VNET_HDR_BYTES, Frame
from crishim.kernel.segment import without_repeats

ACK, FIN = 0x10, 0x11


def tcp(number, *, flags=ACK, data=b"", port=4000, caught_ns=0, version=4):
    segment = struct.pack("!HHIIBBHHH", port, 80, number, 7, 0x50, flags, 100, 0, 0) + data
    if version == 4:
        header = struct.pack("!BBHIBBH4s4s", 0x45, 0, 0, 0, 64, 6, 0, b"abcd", b"efgh")
        frame = bytes(12) + b"\x08\x00" + header + segment
    else:
        header = struct.pack("!IHBB16s16s", 6 << 28, len(segment), 6, 64, b"a" * 16, b"b" * 16)
        frame = bytes(12) + b"\x86\xdd" + header + segment
    return Frame(caught_ns, bytes(VNET_HDR_BYTES) + frame)


def test_only_the_last_of_repeated_segments_is_kept_in_the_place_of_the_first():
    """The last has the timestamps that the far side expects an answer to."""
    for version in (4, 6):
        first = tcp(1, data=b"x", caught_ns=1, version=version)
        again = tcp(1, data=b"x", caught_ns=3, version=version)
        end = tcp(2, flags=FIN, caught_ns=2, version=version)
        assert without_repeats([first, end, again]) == [again, end]


def test_what_differs_is_kept():
    """Another number, other data, other flags, another connection, another family."""
    frames = [
        tcp(1),
        tcp(2),
        tcp(1, data=b"x"),
        tcp(1, data=b"y"),
        tcp(1, flags=FIN),
        tcp(1, port=4001),
        tcp(1, version=6),
    ]
    assert without_repeats(frames) == frames


def test_what_is_no_tcp_is_kept():
    """ARP, datagrams and cut frames say nothing twice, as far as we know."""
    arp = Frame(1, bytes(VNET_HDR_BYTES + 12) + b"\x08\x06" + bytes(28))
    cut = Frame(2, tcp(1).data[: VNET_HDR_BYTES + 40])
    assert without_repeats([arp, arp, cut, cut]) == [arp, arp, cut, cut]
