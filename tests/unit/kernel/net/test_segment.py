"""Which caught frames repeat each other, and what ends the connections that they are of."""

import struct

from crishim.kernel.net.segment import VNET_HDR_BYTES, Frame, checksum, refusals, without_repeats

ACK, FIN, SYN, RST = 0x10, 0x11, 0x02, 0x04
ENDS4 = ("97.98.99.100", "101.102.103.104")


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


def test_each_connection_is_refused_once_where_its_peer_expects_the_next_byte():
    frames = [tcp(1, data=b"x"), tcp(2, data=b"y"), tcp(9, port=4001)]
    assert list(refusals(frames)) == [ENDS4[0]]
    for packet, port in zip(refusals(frames)[ENDS4[0]], (4000, 4001), strict=True):
        assert (packet[9], packet[12:20]) == (6, b"efgh" + b"abcd")
        assert struct.unpack("!HHIIBB", packet[20:34]) == (80, port, 7, 0, 0x50, RST)
        assert checksum(packet[12:20] + struct.pack("!II", 20, 6) + packet[20:]) == 0


def test_what_would_begin_a_connection_is_refused_too():
    (packet,) = refusals([tcp(0xFFFFFFFF, flags=SYN)])[ENDS4[0]]
    assert struct.unpack("!HHIIBB", packet[20:34]) == (80, 4000, 0, 0, 0x50, RST | ACK)


def test_refusals_of_ipv6_have_their_whole_header():
    (packet,) = refusals([tcp(1, version=6)])["6161:6161:6161:6161:6161:6161:6161:6161"]
    assert packet[:8] == struct.pack("!IHBB", 6 << 28, 20, 6, 64)
    assert packet[8:40] == b"b" * 16 + b"a" * 16
    assert checksum(packet[8:40] + struct.pack("!II", 20, 6) + packet[40:]) == 0


def test_nothing_answers_a_reset():
    assert refusals([tcp(1, flags=RST)]) == {}
