"""The program that is dumped and restored (tests/workload), asked over its port."""

from __future__ import annotations

import socket
import time

IMAGE = "crishim.test/workload:1"
PORT = 9000


def ask(address: str, line: str, port: int = PORT) -> str:
    """Send one line to the workload; the connection ends with it."""
    with socket.create_connection((address, port), timeout=10) as connection:
        connection.sendall(line.encode() + b"\n")
        return connection.makefile().readline().strip()


def wait_answer(address: str, port: int = PORT) -> None:
    """Wait until the workload answers: its memory is filled then."""
    end = time.monotonic() + 60
    while True:
        try:
            ask(address, "sum", port)
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            return


def standstill_ms(address: str, port: int = PORT) -> float:
    """Return the longest standstill that the workload has seen since its last `reset`."""
    time.sleep(0.02)
    return int(ask(address, "gap", port).split()[1]) / 1e3
