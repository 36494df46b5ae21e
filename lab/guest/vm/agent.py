#!/usr/bin/python3
"""The guest's end of the command channel that `scripts/lab vm exec` talks to.

Each virtio-serial port named on the command line has a thread, which runs one command at a time.
Both directions carry lines `SESSION VERB BASE64`. From outside: `run` (JSON: argv), `in`, `eof`;
from here: `out`, `err`, `exit` (a number). A command ends when its client goes away, which shows
as a hang-up of the port or, when that was too short to be seen, as another session's `run`.
"""

import base64
import contextlib
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import threading
import time

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
}
CHUNK_BYTES = 48 << 10
INPUT_BYTES_MAX = 1 << 20
OUTPUT_AFTER_EXIT_S = 0.5
POLL_MS = 200
IDLE_S = 0.1


class ClientGoneError(Exception):
    """Nobody listens at the other end of the port."""


class Port:
    """One virtio-serial port, read and written in lines."""

    def __init__(self, name: str) -> None:
        """Open the port of that name."""
        self.fd = os.open(device_of(name), os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        self.buffer = b""

    def read(self) -> list[tuple[str, str, bytes]]:
        """Return the lines that have come; torn ones of a client that died are dropped."""
        try:
            *lines, self.buffer = (self.buffer + os.read(self.fd, 1 << 16)).split(b"\n")
        except BlockingIOError:
            return []
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):
                session, verb, data = line.decode().split(" ")
                found.append((session, verb, base64.b64decode(data, validate=True)))
        return found

    def send(self, session: str, verb: str, data: bytes) -> None:
        """Send one line; raise ClientGoneError when nobody takes it."""
        line = f"{session} {verb} {base64.b64encode(data).decode()}\n".encode()
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        while line:
            try:
                line = line[os.write(self.fd, line) :]
            except BlockingIOError:
                if any(event & select.POLLHUP for _, event in poll.poll(POLL_MS)):
                    raise ClientGoneError from None


class Command:
    """A command under way, its pipes and what is still to be written to it."""

    def __init__(self, port: Port, session: str, argv: list[str]) -> None:
        """Start it in a session and process group of its own."""
        self.port, self.session = port, session
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            argv, stdin=pipe, stdout=pipe, stderr=pipe, cwd="/root", env=ENVIRONMENT,
            start_new_session=True,
        )  # fmt: skip
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.pipes = (self.process.stdin, self.process.stdout, self.process.stderr)
        self.stdin = self.pipes[0].fileno()
        os.set_blocking(self.stdin, False)
        self.outputs = {self.pipes[1].fileno(): "out", self.pipes[2].fileno(): "err"}
        self.input, self.input_ended, self.stdin_open = bytearray(), False, True

    def finish(self) -> list[tuple[str, str, bytes]]:
        """Serve the command to its end; return lines of a next session, if one came."""
        ended_at = None
        try:
            while True:
                for line in self.step():
                    if line[1] == "run":
                        return [line]
                    self.take(*line)
                if ended_at is None and self.process.poll() is not None:
                    ended_at = time.monotonic()
                # A background child that keeps the pipes open must not hold the answer back.
                if ended_at is not None and (
                    not self.outputs or time.monotonic() - ended_at > OUTPUT_AFTER_EXIT_S
                ):
                    code = self.process.returncode
                    code = code if code >= 0 else 128 - code
                    self.port.send(self.session, "exit", str(code).encode())
                    return []
        finally:
            self.close()

    def step(self) -> list[tuple[str, str, bytes]]:
        """Wait for something to move, pass output on and input down; return lines that came."""
        poll = select.poll()
        for fd in self.outputs:
            poll.register(fd, select.POLLIN)
        if self.stdin_open and self.input:
            poll.register(self.stdin, select.POLLOUT)
        poll.register(self.port.fd, select.POLLIN if len(self.input) < INPUT_BYTES_MAX else 0)
        ready = dict(poll.poll(POLL_MS if self.process.poll() is None else 20))
        if ready.get(self.port.fd, 0) & select.POLLHUP:
            raise ClientGoneError
        for fd in [fd for fd in self.outputs if fd in ready]:
            if data := os.read(fd, CHUNK_BYTES):
                self.port.send(self.session, self.outputs[fd], data)
            else:
                del self.outputs[fd]
        if self.stdin in ready:
            self.write_input()
        if self.stdin_open and self.input_ended and not self.input:
            self.pipes[0].close()
            self.stdin_open = False
        return self.port.read() if self.port.fd in ready else []

    def write_input(self) -> None:
        """Give the command what its pipe takes."""
        try:
            del self.input[: os.write(self.stdin, self.input)]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self.input.clear()
            self.input_ended = True

    def take(self, session: str, verb: str, data: bytes) -> None:
        """Keep input of this session; anything else is a left-over."""
        if session == self.session:
            self.input_ended = self.input_ended or verb == "eof"
            if not self.input_ended:
                self.input += data

    def close(self) -> None:
        """End the command, if it runs, with all it started in its process group."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in self.pipes:
            pipe.close()


def device_of(name: str) -> str:
    """Return the device of a port, waiting for the driver; there is no udev to name it."""
    while True:
        for file in pathlib.Path("/sys/class/virtio-ports").glob("*/name"):
            if file.read_text().strip() == name:
                return f"/dev/{file.parent.name}"
        time.sleep(0.05)


def serve(name: str) -> None:
    """Run what comes over one port, one command after the other."""
    port = Port(name)
    poll = select.poll()
    poll.register(port.fd, select.POLLIN)
    lines: list[tuple[str, str, bytes]] = []
    while True:
        if not lines:
            events = poll.poll()
            if any(event & select.POLLHUP for _, event in events):
                time.sleep(IDLE_S)  # nobody at the other end: poll never waits then
            lines = port.read()
        while lines:
            session, verb, data = lines.pop(0)
            if verb == "run":
                with contextlib.suppress(ClientGoneError):
                    lines = run(port, session, json.loads(data)["argv"], lines)


def run(
    port: Port, session: str, argv: list[str], early: list[tuple[str, str, bytes]]
) -> list[tuple[str, str, bytes]]:
    """Run one command; `early` lines came together with it."""
    try:
        command = Command(port, session, argv)
    except OSError as problem:
        port.send(session, "err", f"{argv[0]}: {problem.strerror}\n".encode())
        missing = isinstance(problem, FileNotFoundError)
        port.send(session, "exit", b"127" if missing else b"126")
        return []
    for line in early:
        command.take(*line)
    return command.finish()


def main() -> None:
    """Serve all ports, for as long as the machine runs."""
    threads = [threading.Thread(target=serve, args=(name,)) for name in sys.argv[1:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


main()
