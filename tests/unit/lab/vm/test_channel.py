"""The outer end of the channel to the virtual machine, against a guest made of a thread."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import threading

import pytest

from lab.errors import LabError
from lab.vm.channel import TIMED_OUT, run_command


class Guest(threading.Thread):
    """Takes one client and answers with the lines that a test gives it."""

    def __init__(self, directory) -> None:
        super().__init__()
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(directory / "lab0.sock"))
        self.server.listen()
        self.answers: list[tuple[str, bytes]] = []
        self.argv: list[str] = []
        self.input = b""

    def run(self) -> None:
        client, _ = self.server.accept()
        with client, client.makefile("rb") as lines, contextlib.suppress(BrokenPipeError):
            for line in lines:
                if not line.strip():
                    continue
                session, verb, data = line.decode().rstrip("\n").split(" ")
                if verb == "run":
                    self.argv = json.loads(base64.b64decode(data))["argv"]
                    client.sendall(b"torn\nother exit MQ==\n")
                if verb == "in":
                    self.input += base64.b64decode(data)
                if verb == "eof":
                    for word, content in self.answers:
                        encoded = base64.b64encode(content).decode()
                        client.sendall(f"{session} {word} {encoded}\n".encode())
                    if not self.answers:
                        return


@pytest.fixture
def guest(tmp_path):
    """A guest that waits for one client."""
    guest = Guest(tmp_path)
    guest.start()
    yield guest
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as last:
        last.connect(guest.server.getsockname())
    guest.join(timeout=10)
    guest.server.close()


def collect(tmp_path, **options) -> tuple[int, dict[str, bytes]]:
    printed = {"out": b"", "err": b""}

    def write(stream: str, data: bytes) -> None:
        printed[stream] += data

    return run_command(tmp_path, ["echo", "x y"], write=write, **options), printed


def test_output_and_status_come_back(tmp_path, guest):
    """Both streams and the status are the command's; lines of earlier clients are dropped."""
    guest.answers = [("out", b"one\n"), ("err", b"\xff\0two"), ("exit", b"7")]
    assert collect(tmp_path) == (7, {"out": b"one\n", "err": b"\xff\0two"})
    assert guest.argv == ["echo", "x y"]


def test_input_goes_in_whole(tmp_path, guest):
    """Standard input reaches the command to its end, however long."""
    data = os.urandom(1 << 20)
    (tmp_path / "input").write_bytes(data)
    guest.answers = [("exit", b"0")]
    with (tmp_path / "input").open("rb") as file:
        status, _ = collect(tmp_path, stdin_fd=file.fileno())
    assert status == 0
    assert guest.input == data


def test_a_command_that_takes_too_long(tmp_path, guest):
    """After the time limit the client goes away, which ends the command."""
    guest.answers = [("out", b"never an exit")]
    status, printed = collect(tmp_path, timeout_s=0.05)
    assert status == TIMED_OUT
    assert printed["err"] == b""


def test_a_machine_that_ends_meanwhile(tmp_path, guest):
    """The end of the machine is an error, not an exit status."""
    with pytest.raises(LabError, match="ended during the command"):
        collect(tmp_path)


def test_no_machine(tmp_path):
    """Without a machine the way to get one is named."""
    with pytest.raises(LabError, match="scripts/lab vm up"):
        collect(tmp_path)
