"""Run commands in the virtual machine over its virtio-serial ports; the outer end of the channel.

`guest/vm/agent.py` says what goes over it. Each port is a socket on this machine that takes one
client at a time, so clients share the ports by locks. Knows nothing of how the machine is made.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import socket
import time
import uuid
from typing import TYPE_CHECKING

from lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

TIMED_OUT = 124
_CHUNK_BYTES = 48 << 10
_UNSENT_BYTES_MAX = 256 << 10
_RETRY_S = 0.05


def run_command(
    sockets: Path,
    argv: Sequence[str],
    *,
    write: Callable[[str, bytes], None],
    stdin_fd: int | None = None,
    timeout_s: float | None = None,
) -> int:
    """Run a command in the machine; it ends when this process does.

    Args:
        sockets: the directory of the ports' sockets.
        write: is given "out" or "err" and what the command printed there.
        stdin_fd: read to its end and handed to the command; None for an empty input.
        timeout_s: from when the command is sent; the command is killed then.
    Returns: its exit status, 128 + N when signal N ended it, TIMED_OUT after `timeout_s`.
    Raises: LabError: the machine does not run, or ended meanwhile.
    """
    with _free_port(sockets) as port:
        session = _Session(port, write)
        session.send("run", json.dumps({"argv": list(argv)}).encode())
        if stdin_fd is None:
            session.send("eof", b"")
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while session.status is None:
            if deadline is not None and time.monotonic() > deadline:
                return TIMED_OUT
            if not session.step(stdin_fd, deadline):
                stdin_fd = None
        return session.status


@contextlib.contextmanager
def _free_port(sockets: Path) -> Iterator[socket.socket]:
    """Connect to the first port that nobody uses, waiting until there is one."""
    while True:
        paths = sorted(sockets.glob("lab*.sock"))
        if not paths:
            raise LabError("there is no virtual machine: scripts/lab vm up")
        for path in paths:
            with path.with_suffix(".lock").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                with socket.socket(socket.AF_UNIX) as port:
                    try:
                        port.connect(str(path))
                    except OSError as refused:
                        raise LabError(
                            "the virtual machine has ended: scripts/lab vm down, then up"
                        ) from refused
                    port.setblocking(False)
                    yield port
                return
        time.sleep(_RETRY_S)


class _Session:
    """One command's share of a port: lines out, lines in."""

    def __init__(self, port: socket.socket, write: Callable[[str, bytes], None]) -> None:
        self._port = port
        self._write = write
        self._id = uuid.uuid4().hex[:12]
        # A line feed first: it ends a line that a former client left torn.
        self._unsent = bytearray(b"\n")
        self._received = b""
        self.status: int | None = None

    def send(self, verb: str, data: bytes) -> None:
        """Queue one line."""
        self._unsent += f"{self._id} {verb} {base64.b64encode(data).decode()}\n".encode()

    def step(self, stdin_fd: int | None, deadline: float | None) -> bool:
        """Wait for something to move and pass it on; return whether stdin goes on."""
        poll = select.poll()
        poll.register(self._port, select.POLLIN | (select.POLLOUT if self._unsent else 0))
        reads_input = stdin_fd is not None and len(self._unsent) < _UNSENT_BYTES_MAX
        if stdin_fd is not None and reads_input:
            poll.register(stdin_fd, select.POLLIN)
        wait_ms = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1e3
        ready = dict(poll.poll(wait_ms))
        events = ready.get(self._port.fileno(), 0)
        if events & select.POLLOUT:
            del self._unsent[: self._port.send(self._unsent)]
        if events & (select.POLLIN | select.POLLHUP):
            self._receive()
        if stdin_fd is not None and stdin_fd in ready:
            data = os.read(stdin_fd, _CHUNK_BYTES)
            self.send("in" if data else "eof", data)
            return bool(data)
        return stdin_fd is not None

    def _receive(self) -> None:
        data = self._port.recv(1 << 18)
        if not data:
            raise LabError("the virtual machine ended during the command")
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            session, _, rest = line.decode(errors="replace").partition(" ")
            verb, _, data64 = rest.partition(" ")
            if session != self._id:  # of a client that went away
                continue
            content = base64.b64decode(data64)
            if verb == "exit":
                self.status = int(content)
            else:
                self._write(verb, content)
