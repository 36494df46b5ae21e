"""Move a TCP socket from one namespace to another, as CRIU does, by the kernel's repair mode."""

import contextlib
import socket
import struct

TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ, TCP_REPAIR_OPTIONS = 19, 20, 21, 22
TCP_TIMESTAMP, TCP_REPAIR_WINDOW = 24, 29
RECEIVE, SEND = 1, 2
MSS, WINDOW_SCALE, SACK, TIMESTAMPS = 2, 3, 4, 8


def take(sock):
    """Return all of a connection and close the socket without a word to the far side."""
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 64)
    state = {
        "family": sock.family,
        "local": sock.getsockname(),
        "remote": sock.getpeername(),
        "mss": sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG),
        "scale": (info[6] & 15) | (info[6] >> 4) << 16,
        "timestamp": sock.getsockopt(socket.IPPROTO_TCP, TCP_TIMESTAMP) & 0xFFFFFFFF,
        "window": sock.getsockopt(socket.IPPROTO_TCP, TCP_REPAIR_WINDOW, 20),
    }
    for queue in (RECEIVE, SEND):
        sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, queue)
        data = b""
        with contextlib.suppress(BlockingIOError):
            data = sock.recv(1 << 20, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        sequence = sock.getsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ) & 0xFFFFFFFF
        state[queue] = (sequence - len(data) & 0xFFFFFFFF, data)
    sock.close()
    return state


def give(sock, state):
    """Make a fresh socket the connection that `take` returned."""

    def option(name, value):
        sock.setsockopt(socket.IPPROTO_TCP, name, value)

    option(TCP_REPAIR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for queue in (RECEIVE, SEND):
        option(TCP_REPAIR_QUEUE, queue)
        option(TCP_QUEUE_SEQ, struct.pack("=I", state[queue][0]))
    sock.bind(state["local"])
    sock.connect(state["remote"])
    options = ((WINDOW_SCALE, state["scale"]), (SACK, 0), (TIMESTAMPS, 0), (MSS, state["mss"]))
    option(TCP_REPAIR_OPTIONS, b"".join(struct.pack("=II", *pair) for pair in options))
    option(TCP_TIMESTAMP, struct.pack("=I", state["timestamp"]))
    for queue in (RECEIVE, SEND):
        option(TCP_REPAIR_QUEUE, queue)
        if state[queue][1]:
            sock.send(state[queue][1])
    option(TCP_REPAIR_WINDOW, state["window"])


def wake(sock):
    """Let a given socket live; from here on it sends."""
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 0)
