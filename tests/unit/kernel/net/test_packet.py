"""Frames that announce and ask for addresses, byte by byte where others must understand them."""

import socket
import struct

from crishim.kernel.net.packet import Budget, Catch, Limits, announcement, icmpv6_checksum
from crishim.kernel.net.probe import answer, question
from crishim.kernel.net.segment import Frame

MAC = "02:00:00:00:00:07"
HARDWARE = bytes.fromhex("020000000007")


def ipv6_parts(frame):
    return frame[22:38], frame[38:54], frame[54:]


def test_a_gratuitous_arp_names_the_address_as_sender_and_target():
    frame = announcement("10.0.0.7", MAC)
    address = socket.inet_aton("10.0.0.7")
    assert frame[:14] == b"\xff" * 6 + HARDWARE + b"\x08\x06"
    assert frame[14:22] == bytes.fromhex("0001080006040001")
    assert (frame[22:28], frame[28:32], frame[38:42]) == (HARDWARE, address, address)


def test_an_unsolicited_advertisement_overrides():
    frame = announcement("fd00::7", MAC)
    source, destination, body = ipv6_parts(frame)
    assert destination == socket.inet_pton(socket.AF_INET6, "ff02::1")
    assert source == socket.inet_pton(socket.AF_INET6, "fd00::7")
    kind, _, _, flags = struct.unpack_from("!BBHI", body)
    assert (kind, flags) == (136, 0x20000000)
    assert frame[21] == 255
    # A sum over a message that carries its right checksum is zero.
    assert icmpv6_checksum(source, destination, body) == 0


def test_an_arp_probe_carries_no_address_of_ours():
    frame = question("10.0.0.7", MAC)
    assert frame[28:32] == bytes(4)
    assert frame[38:42] == socket.inet_aton("10.0.0.7")


def test_a_solicitation_goes_to_the_addresss_group_from_nowhere():
    frame = question("fd00::12:3456", MAC)
    source, destination, body = ipv6_parts(frame)
    assert frame[:6] == bytes.fromhex("3333ff123456")
    assert source == bytes(16)
    assert destination == socket.inet_pton(socket.AF_INET6, "ff02::1:ff12:3456")
    assert icmpv6_checksum(source, destination, body) == 0


def test_answers_are_read_and_questions_are_not():
    reply = bytearray(announcement("10.0.0.7", MAC))
    reply[21] = 2
    assert answer(bytes(reply)) == ("10.0.0.7", MAC)
    assert answer(announcement("fd00::7", MAC)) == ("fd00::7", MAC)
    assert answer(question("10.0.0.7", MAC)) is None
    assert answer(question("fd00::7", MAC)) is None
    for size in range(len(reply)):
        assert answer(bytes(reply[:size])) is None


def frame(number):
    return Frame(number, bytes(100))


def numbers(frames):
    return [item.caught_ns for item in frames]


def test_a_catch_keeps_the_youngest_frames_and_says_once_that_others_went(caplog):
    caught = Catch(Limits(frames=3, size_bytes=250), name="veth0")
    for number in range(10):
        caught.add(frame(number))
    assert numbers(caught.take()) == [8, 9]
    assert caught.lost == 8
    assert caplog.text.count("veth0: more was caught than memory is meant for") == 1


def test_all_stopped_containers_of_a_node_share_one_budget():
    """A hundred of them would take gigabytes from its pods otherwise."""
    budget = Budget(1000)
    caught = [Catch(Limits(), name=f"veth{number}") for number in range(3)]
    caught[0].add(frame(0))
    for item in caught:
        item.share(budget)
        for number in range(1, 9):
            item.add(frame(number))
    assert budget.used_bytes <= 1000
    assert numbers(caught[0].take()) == [*range(9)]
    for number in range(10, 20):
        caught[1].add(frame(number))
    assert numbers(caught[1].take()) == [*range(10, 20)]
    assert numbers(caught[2].take()) == []
    assert budget.used_bytes == 0
