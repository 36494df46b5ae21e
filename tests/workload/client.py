"""A client without any reconnect code, and an eye on the wire beside it.

Usage: client.py ADDRESS PORT [--connections N] [--period-ms T] [--interface IF]

Keeps N connections open to the workload, sends a numbered message every T ms on each, waits for the
answer and checks it. Commands come as lines on standard input, answers go out as JSON lines:

    mark     forget the longest gap so far; answers {"marked": ...}
    report   answers what was seen since the start (and the gap since the last mark)
    end of input: a last report, the connections are closed, exit 0

A gap is the time between two answers on one connection, on the wall clock. With --interface, TCP
segments with RST or FIN and ICMP errors that concern ADDRESS are counted on that interface.
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
import sys
import threading
import time


class Connection(threading.Thread):
    """One connection with a message under way at a time."""

    def __init__(self, address: str, port: int, period_s: float) -> None:
        super().__init__(daemon=True)
        self.socket = socket.create_connection((address, port), timeout=10)
        self.socket.settimeout(120)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.period_s = period_s
        self.answered = 0
        self.first = self.last = 0
        self.errors: list[str] = []
        self.gap = (0.0, 0.0, 0.0)
        self.stop = False

    def run(self) -> None:
        answers = self.socket.makefile("rb")
        before = time.time()
        while not self.stop:
            number = self.answered + 1
            try:
                self.socket.sendall(b"count %d\n" % number)
                words = answers.readline().split()
            except OSError as error:
                self.errors.append(repr(error))
                return
            if len(words) != 3 or words[0] != b"count" or int(words[1]) != number:
                self.errors.append(f"message {number} was answered by {words!r}")
                return
            now = time.time()
            if now - before > self.gap[0]:
                self.gap = (now - before, before, now)
            self.last = int(words[2])
            self.first = self.first or self.last
            self.answered = number
            before = now
            time.sleep(self.period_s)


class Wire(threading.Thread):
    """Counts what must not be seen: RST and FIN of our connections, ICMP errors about the address.

    Args: ports: our own ends of the connections.
    """

    def __init__(self, interface: str, address: str, ports: set[int]) -> None:
        super().__init__(daemon=True)
        self.ports = ports
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.socket.bind((interface, 0))
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.address = socket.inet_pton(family, address)
        self.seen: list[str] = []

    def run(self) -> None:
        while True:
            frame = self.socket.recv(1 << 17)
            if self.address in frame[14:134]:
                name = alarm(frame, self.ports)
                if name:
                    self.seen.append(name)


def alarm(frame: bytes, ports: set[int]) -> str:
    """Return what is wrong with an Ethernet frame: "RST", "FIN", "ICMP error" or ""."""
    kind = struct.unpack("!H", frame[12:14])[0]
    if kind == 0x0800:
        protocol, at = frame[23], 14 + (frame[14] & 15) * 4
    elif kind == 0x86DD:
        protocol, at = frame[20], 54
    else:
        return ""
    if protocol == socket.IPPROTO_TCP and len(frame) > at + 13:
        if not ports & set(struct.unpack("!HH", frame[at : at + 4])):
            return ""
        flags = frame[at + 13]
        return "RST" if flags & 4 else "FIN" if flags & 1 else ""
    if protocol == socket.IPPROTO_ICMP and frame[at] in (3, 5, 11, 12):
        return "ICMP error"
    if protocol == socket.IPPROTO_ICMPV6 and frame[at] < 128:
        return "ICMP error"
    return ""


def report(connections: list[Connection], wire: Wire | None) -> dict[str, object]:
    """Return one JSON object on all connections; the gap is the longest of any."""
    gap = max((c.gap for c in connections), key=lambda g: g[0])
    return {
        "connections": len(connections),
        "answered": sum(c.answered for c in connections),
        "counted": max(c.last for c in connections) - min(c.first for c in connections) + 1,
        "errors": [e for c in connections for e in c.errors],
        "gap_ms": round(gap[0] * 1e3, 1),
        "gap_began": gap[1],
        "gap_ended": gap[2],
        "wire": list(wire.seen) if wire else [],
    }


def main() -> int:
    """Run the client until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--period-ms", type=float, default=2)
    parser.add_argument("--interface", default="")
    options = parser.parse_args()
    connections = [
        Connection(options.address, options.port, options.period_ms / 1e3)
        for _ in range(options.connections)
    ]
    wire = None
    if options.interface:
        ports = {connection.socket.getsockname()[1] for connection in connections}
        wire = Wire(options.interface, options.address, ports)
        wire.start()
    for connection in connections:
        connection.start()
    print(json.dumps({"connected": len(connections)}), flush=True)
    for line in sys.stdin:
        if line.strip() == "mark":
            for connection in connections:
                connection.gap = (0.0, 0.0, 0.0)
            print(json.dumps({"marked": time.time()}), flush=True)
        elif line.strip() == "report":
            print(json.dumps(report(connections, wire)), flush=True)
    seen = report(connections, wire)  # before our own closing sends FINs
    for connection in connections:
        connection.stop = True
    print(json.dumps(seen), flush=True)
    return 1 if seen["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
