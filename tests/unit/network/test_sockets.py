"""Which frames belong to the sockets of one container."""

import socket
import struct

import pytest

from crishim.kernel.net.sockdiag import InetSocket, TcpState
from crishim.network.sockets import Connection, HeldSockets, held_sockets

TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
POD4, PEER4, POD6, PEER6 = "10.1.0.2", "10.9.0.1", "fd00::2", "fd09::1"
ACK, SYN = 0x10, 0x02


def frame(source, source_port, destination, destination_port, *, protocol=TCP, flags=ACK):
    body = struct.pack("!HH8xBB6x", source_port, destination_port, 0x50, flags)
    if ":" in source:
        ends = [socket.inet_pton(socket.AF_INET6, item) for item in (source, destination)]
        header = struct.pack("!IHBB", 6 << 28, len(body), protocol, 64)
        return bytes(12) + b"\x86\xdd" + header + b"".join(ends) + body
    ends = [socket.inet_aton(item) for item in (source, destination)]
    header = struct.pack("!BBHIBBH", 0x45, 0, 40, 0, 64, protocol, 0)
    return bytes(12) + b"\x08\x00" + header + b"".join(ends) + body


def entry(**changes):
    fields = {
        "version": 4, "state": TcpState.ESTABLISHED, "local": POD4, "local_port": 80,
        "remote": PEER4, "remote_port": 4000, "receive_queue": 0, "send_queue": 0, "inode": 7,
    }  # fmt: skip
    return InetSocket(**fields | changes)


@pytest.mark.parametrize(("pod", "peer"), [(POD4, PEER4), (POD6, PEER6)])
def test_a_frame_of_a_kept_connection_matches_in_its_direction(pod, peer):
    ends = Connection(local=pod, local_port=80, remote=peer, remote_port=4000)
    held = HeldSockets(connections=frozenset([ends]))
    assert held.matches(frame(peer, 4000, pod, 80))
    assert not held.matches(frame(peer, 4001, pod, 80))
    assert not held.matches(frame(pod, 80, peer, 4000))
    assert not held.matches(frame(peer, 4000, pod, 80, protocol=UDP))


def test_only_what_begins_a_connection_matches_a_listener():
    held = HeldSockets(tcp_ports=frozenset([80]))
    assert held.matches(frame(PEER4, 4000, POD4, 80, flags=SYN))
    assert not held.matches(frame(PEER4, 4000, POD4, 80, flags=ACK))
    assert not held.matches(frame(PEER4, 4000, POD4, 80, flags=SYN | ACK))
    assert not held.matches(frame(PEER4, 4000, POD4, 81, flags=SYN))


def test_a_udp_port_matches_by_itself():
    held = HeldSockets(udp_ports=frozenset([53]))
    assert held.matches(frame(PEER6, 4000, POD6, 53, protocol=UDP))
    assert not held.matches(frame(PEER6, 53, POD6, 4000, protocol=UDP))


def test_no_part_of_a_frame_breaks_the_reader():
    held = HeldSockets(tcp_ports=frozenset([80]))
    for whole in (frame(PEER4, 1, POD4, 80, flags=SYN), frame(PEER6, 1, POD6, 80, flags=SYN)):
        for size in range(len(whole)):
            held.matches(whole[:size])
    assert not held.matches(bytes(12) + b"\x08\x06" + bytes(28))


def test_a_containers_sockets_are_picked_by_inode():
    tcp = [
        entry(),
        entry(inode=8, remote_port=4001),
        entry(inode=9, state=TcpState.LISTEN, remote="0.0.0.0", remote_port=0, local_port=81),
        entry(inode=10, version=6, local=f"::ffff:{POD4}", remote=f"::ffff:{PEER4}"),
        entry(inode=0, state=TcpState.TIME_WAIT),
    ]
    udp = [entry(inode=11, local_port=53), entry(inode=12, local_port=54)]
    found = held_sockets(tcp, udp, inodes={7, 9, 10, 11})
    ends = Connection(local=POD4, local_port=80, remote=PEER4, remote_port=4000)
    assert found == HeldSockets(
        connections=frozenset([ends]), tcp_ports=frozenset([81]), udp_ports=frozenset([53])
    )
