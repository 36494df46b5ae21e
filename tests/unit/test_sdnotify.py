"""What systemd hears of the daemon."""

import os
import socket
from pathlib import Path

import pytest

from crishim.sdnotify import Notifier


@pytest.fixture
def manager(tmp_path: Path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(5)
        yield receiver


def test_every_state_is_a_datagram(manager: socket.socket) -> None:
    notifier = Notifier(manager.getsockname())
    notifier.ready()
    notifier.status("waiting for größer")
    notifier.watchdog()
    notifier.stopping("bye")
    notifier.extend_timeout(30)
    assert [manager.recv(200).decode() for _ in range(5)] == [
        "READY=1",
        "STATUS=waiting for größer",
        "WATCHDOG=1",
        "STOPPING=1\nSTATUS=bye",
        "EXTEND_TIMEOUT_USEC=30000000",
    ]


def test_abstract_address() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0crishim-test-{os.getpid()}")
        receiver.settimeout(5)
        Notifier(f"@crishim-test-{os.getpid()}").ready()
        assert receiver.recv(100) == b"READY=1"


def test_variables_are_taken_from_the_environment() -> None:
    environment = {
        "NOTIFY_SOCKET": "/nowhere",
        "WATCHDOG_USEC": "30000000",
        "WATCHDOG_PID": str(os.getpid()),
        "PATH": "/bin",
    }
    assert Notifier.from_environment(environment).watchdog_s == 30.0
    assert environment == {"PATH": "/bin"}


@pytest.mark.parametrize(
    "environment",
    [{}, {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}],
)
def test_watchdog_is_off_unless_meant_for_us(environment: dict[str, str]) -> None:
    assert Notifier.from_environment(environment).watchdog_s == 0.0


def test_nobody_listening_is_no_error(tmp_path: Path) -> None:
    Notifier("").ready()
    Notifier(str(tmp_path / "gone")).ready()
