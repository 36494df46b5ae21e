"""A client without any reconnect code, and an eye on the wire beside it.

Usage: client.py ADDRESS PORT [--kind K] [--connections N] [--period-ms T] [--interface IF]

Keeps N connections open to the workload; `kinds.py` tells what they do. Commands come as lines on
standard input, answers go out as JSON lines:

    mark     forget the longest gap so far; answers {"marked": ...}
    report   answers what was seen since the start (and the gap since the last mark)
    end of input: a last report, the connections are closed, exit 0

A gap is the time between two answers on one connection, on the wall clock. With --interface, TCP
segments with RST or FIN and ICMP errors that concern ADDRESS are counted on that interface.
"""

from __future__ import annotations

import argparse
import json
import resource
import socket
import struct
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import kinds


class Wire(threading.Thread):
    """Counts what must not be seen: RST and FIN of our connections, ICMP errors about the address.

    Args: ports: our own ends of the connections; None for all, with FIN allowed.
    """

    def __init__(self, interface: str, address: str, ports: set[int] | None) -> None:
        super().__init__(daemon=True)
        self.ports = ports
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self.socket.bind((interface, 0))
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.address = socket.inet_pton(family, address)
        self.seen: list[str] = []

    def run(self) -> None:
        while True:
            frame = self.socket.recv(256)
            if self.address in frame[14:134]:
                name = alarm(frame, self.ports)
                if name:
                    self.seen.append(name)


def alarm(frame: bytes, ports: set[int] | None) -> str:
    """Return what is wrong with an Ethernet frame: "RST", "FIN", "ICMP error" or ""."""
    kind = struct.unpack("!H", frame[12:14])[0]
    if kind == 0x0800:
        protocol, at = frame[23], 14 + (frame[14] & 15) * 4
    elif kind == 0x86DD:
        protocol, at = frame[20], 54
    else:
        return ""
    if protocol == socket.IPPROTO_TCP and len(frame) > at + 13:
        flags = frame[at + 13]
        if ports is None:
            return "RST" if flags & 4 else ""
        if not ports & set(struct.unpack("!HH", frame[at : at + 4])):
            return ""
        return "RST" if flags & 4 else "FIN" if flags & 1 else ""
    if protocol == socket.IPPROTO_ICMP and frame[at] in (3, 5, 11, 12):
        return "ICMP error"
    if protocol == socket.IPPROTO_ICMPV6 and frame[at] < 128:
        return "ICMP error"
    return ""


def report(connections: list[kinds.Connection], wire: list[str]) -> dict[str, object]:
    """Return one JSON object on all connections; the gap is the longest of any."""
    gap = max((c.gap for c in connections), key=lambda g: g[0])
    return {
        "connections": len(connections),
        "answered": sum(c.answered for c in connections),
        "counted": max(c.last for c in connections) - min(c.first for c in connections) + 1,
        "least": min(c.answered for c in connections),
        "errors": [e for c in connections for e in c.errors],
        "gap_ms": round(gap[0] * 1e3, 1),
        "gap_began": gap[1],
        "gap_ended": gap[2],
        "wire": wire,
    }


def main() -> int:
    """Run the client until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("--kind", choices=kinds.KINDS, default="count")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--period-ms", type=float, default=2)
    parser.add_argument("--interface", default="")
    options = parser.parse_args()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    kind = kinds.KINDS[options.kind]
    connections = [
        kind(options.address, options.port, options.period_ms / 1e3)
        for _ in range(options.connections)
    ]
    wire = None
    if options.interface:
        ports = {port for connection in connections for port in connection.ports}
        wire = Wire(options.interface, options.address, ports or None)
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
            print(json.dumps(report(connections, list(wire.seen) if wire else [])), flush=True)
    seen = list(wire.seen) if wire else []  # before our own closing sends FINs
    for connection in connections:
        connection.finish()
    last = report(connections, seen)
    print(json.dumps(last), flush=True)
    return 1 if last["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
