"""Frames of a network interface: catch them, send them again, announce addresses.

A `Tap` sits on the host's side of a container's veth and catches what goes towards the container
before the container's namespace drops it. The frames keep their virtio_net_hdr: checksums of local
senders are unfinished there and big frames are not cut yet, and only with that header does the
kernel finish them when they are sent again. This module knows nothing of holds or containers.

Source: packet(7); linux/if_packet.h, linux/virtio_net.h, linux/filter.h.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import ipaddress
import logging
import socket
import struct
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crishim.kernel.net.segment import Frame, checksum

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_log = logging.getLogger(__name__)

_SOL_PACKET = 263
_PACKET_VNET_HDR = 15
_SO_ATTACH_FILTER = 26
_SO_RCVBUFFORCE = 33
_ETH_P_ALL = 0x0003
_PACKET_OUTGOING = 4
_RECEIVE_BUFFER_BYTES = 16 << 20
_FRAME_BYTES_MAX = (1 << 16) + 4096
_READS_PER_TURN = 128

# Classic BPF, (code, jt, jf, k) each: take nothing; take what is on its way out of the interface;
# take of that only what begins a TCP connection.
_TAKE_NOTHING = ((0x06, 0, 0, 0),)
_TAKE_OUTGOING = (
    (0x30, 0, 0, 0xFFFFF000 + 4),  # load the packet type, SKF_AD_OFF + SKF_AD_PKTTYPE
    (0x15, 0, 1, _PACKET_OUTGOING),
    (0x06, 0, 0, 0xFFFFFFFF),
    (0x06, 0, 0, 0),
)
_TAKE_SYNS = (
    (0x30, 0, 0, 0xFFFFF000 + 4),
    (0x15, 0, 14, _PACKET_OUTGOING),
    (0x28, 0, 0, 12),  # the ethernet type
    (0x15, 0, 5, 0x0800),
    (0x30, 0, 0, 23),  # IPv4: protocol, then the TCP flags behind a header of 4 * IHL bytes
    (0x15, 0, 10, socket.IPPROTO_TCP),
    (0xB1, 0, 0, 14),
    (0x50, 0, 0, 14 + 13),
    (0x05, 0, 0, 4),
    (0x15, 0, 6, 0x86DD),
    (0x30, 0, 0, 20),  # IPv6: next header, then the TCP flags
    (0x15, 0, 4, socket.IPPROTO_TCP),
    (0x30, 0, 0, 54 + 13),
    (0x54, 0, 0, 0x12),  # both ways: of SYN and ACK only SYN
    (0x15, 0, 1, 0x02),
    (0x06, 0, 0, 0xFFFFFFFF),
    (0x06, 0, 0, 0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a tap keeps; beyond that the oldest frames go."""

    frames: int = 20_000
    size_bytes: int = 64 << 20


class Budget:
    """How many bytes of frames several catches keep together."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.used_bytes = 0


class Catch:
    """The frames that one tap keeps: the youngest that its limits, and its budget, allow.

    Attributes: lost: how many had to go.
    """

    def __init__(self, limits: Limits, *, name: str) -> None:
        self.lost = 0
        self._limits = limits
        self._name = name
        self._budget = Budget(limits.size_bytes)
        self._frames: deque[Frame] = deque()
        self._kept_bytes = 0

    def share(self, budget: Budget) -> None:
        """Count against a budget that others count against too, from now on."""
        self._budget.used_bytes -= self._kept_bytes
        self._budget = budget
        budget.used_bytes += self._kept_bytes
        self._trim()

    def add(self, frame: Frame) -> None:
        """Keep one more frame; the oldest go for it."""
        self._frames.append(frame)
        self._count(len(frame.data))
        self._trim()

    def take(self) -> list[Frame]:
        """Return all frames, oldest first, and keep none."""
        frames = list(self._frames)
        self._frames.clear()
        self._count(-self._kept_bytes)
        return frames

    def _trim(self) -> None:
        while self._frames and (
            len(self._frames) > self._limits.frames
            or self._kept_bytes > self._limits.size_bytes
            or self._budget.used_bytes > self._budget.size_bytes
        ):
            self._count(-len(self._frames.popleft().data))
            if not self.lost:
                _log.warning(
                    "%s: more was caught than memory is meant for; clients whose frames go send "
                    "them again by themselves",
                    self._name,
                )
            self.lost += 1

    def _count(self, size_bytes: int) -> None:
        self._kept_bytes += size_bytes
        self._budget.used_bytes += size_bytes


class Tap:
    """Catch frames that leave one interface, in bounded memory; send frames out of it.

    Make it in a thread of the interface's namespace, then use it on the event loop. It catches
    nothing until `start`.

    Raises:
        OSError: there is no such interface, or packet sockets are forbidden.
    """

    def __init__(self, interface: str, limits: Limits | None = None) -> None:
        self.interface = interface
        self._limits = limits or Limits()
        self._caught = Catch(self._limits, name=interface)
        self._accept: Callable[[bytes], bool] | None = None
        self._buffer = bytearray(_FRAME_BYTES_MAX)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        try:
            self._filter(_TAKE_NOTHING)
            self._socket.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
            with contextlib.suppress(PermissionError):
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
            self._socket.setblocking(False)
            self._socket.bind((interface, _ETH_P_ALL))
        except OSError:
            self._socket.close()
            raise

    def start(
        self, *, only_syns: bool = False, accept: Callable[[bytes], bool] | None = None
    ) -> None:
        """Begin to catch, on the event loop; called again it changes what is caught.

        Args:
            only_syns: nothing but first segments of TCP connections.
            accept: given an Ethernet frame it says whether to keep it; what was caught before is
                asked about too. None for all.
        """
        self._accept = accept
        for frame in self._caught.take():
            self._keep(frame)
        self._filter(_TAKE_SYNS if only_syns else _TAKE_OUTGOING)
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._socket, self._read, _READS_PER_TURN)

    def stop(self) -> list[Frame]:
        """End catching and return what was caught, oldest first; sending goes on to work."""
        if self._loop is not None:
            self._filter(_TAKE_NOTHING)
            self._read(self._limits.frames)
            self._stop_reading()
        return self._caught.take()

    def share(self, budget: Budget) -> None:
        """Count what is caught against a budget that others share."""
        self._caught.share(budget)

    def send(self, frames: list[Frame]) -> int:
        """Send frames out of the interface and return how many the kernel took.

        Blocks for some 20 us a frame: many frames are a matter for a thread.
        """
        sent = 0
        for frame in frames:
            # A frame that does not fit this interface must not cost the others.
            with contextlib.suppress(OSError):
                self._socket.send(frame.data)
                sent += 1
        return sent

    def close(self) -> None:
        """Close the socket and forget the frames. Safe to repeat."""
        self._stop_reading()
        self._socket.close()
        self._caught.take()

    def _filter(self, program: tuple[tuple[int, int, int, int], ...]) -> None:
        code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
        buffer = ctypes.create_string_buffer(code)
        argument = struct.pack("HP", len(program), ctypes.addressof(buffer))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, argument)

    def _read(self, reads_max: int) -> None:
        for _ in range(reads_max):
            try:
                size = self._socket.recv_into(self._buffer)
            except BlockingIOError:
                return
            except OSError:
                # ENETDOWN, told once when the interface goes with its sandbox. What was caught
                # before is still to be read.
                continue
            self._keep(Frame(time.monotonic_ns(), bytes(memoryview(self._buffer)[:size])))

    def _keep(self, frame: Frame) -> None:
        if self._accept is None or self._accept(frame.ethernet):
            self._caught.add(frame)

    def _stop_reading(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.remove_reader(self._socket)


def announcement(address: str, mac: str) -> bytes:
    """Build the frame that tells a network where an address is now.

    Args: address: IPv4 gives a gratuitous ARP request, IPv6 an unsolicited neighbour
        advertisement with the override flag. mac: "02:00:00:00:00:01".
    Source: RFC 5227 section 3, RFC 4861 section 7.2.6.
    """
    ip = ipaddress.ip_address(address)
    hardware = bytes.fromhex(mac.replace(":", ""))
    if ip.version == 4:
        return (
            struct.pack("!6s6sHHHBBH", b"\xff" * 6, hardware, 0x0806, 1, 0x0800, 6, 4, 1)
            + hardware + ip.packed + bytes(6) + ip.packed
        )  # fmt: skip
    everyone = ipaddress.ip_address("ff02::1").packed
    body = struct.pack("!BBHI16sBB6s", 136, 0, 0, 0x20000000, ip.packed, 2, 1, hardware)
    body = body[:2] + struct.pack("!H", icmpv6_checksum(ip.packed, everyone, body)) + body[4:]
    header = struct.pack("!IHBB16s16s", 6 << 28, len(body), 58, 255, ip.packed, everyone)
    return struct.pack("!6s6sH", b"\x33\x33\x00\x00\x00\x01", hardware, 0x86DD) + header + body


def icmpv6_checksum(source: bytes, destination: bytes, body: bytes) -> int:
    """Return the checksum of an ICMPv6 message between two packed addresses."""
    return checksum(source + destination + struct.pack("!II", len(body), 58) + body)


def send_packets(packets: Mapping[str, Sequence[bytes]]) -> None:
    """Send whole IP packets, by the address they are for; blocks for some 20 us each.

    Nobody waits for a packet that the kernel does not take.
    """
    for address, wanted in packets.items():
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        with socket.socket(family, kind, socket.IPPROTO_RAW) as sender:
            for packet in wanted:
                with contextlib.suppress(OSError):
                    sender.sendto(packet, (address, 0))


class Announcer:
    """Tell the network behind one interface where addresses are; make it in the namespace."""

    def __init__(self, interface: str) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        try:
            self._socket.bind((interface, 0))
        except OSError:
            self._socket.close()
            raise

    def announce(self, addresses: list[str], mac: str) -> None:
        """Send one announcement for each address."""
        for address in addresses:
            self._socket.send(announcement(address, mac))

    def close(self) -> None:
        """Close the socket. Safe to repeat."""
        self._socket.close()
