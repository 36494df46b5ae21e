"""Processes with a parent outside of their container: sessions, and orphans of a shared pod."""

import contextlib
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from crishim.dump.checks import preflight
from crishim.errors import Precondition, Unsupported

# Plays the pause process: it takes orphans, and a container's process is its child.
PAUSE = "sleep 1000 & (setsid sleep 1001 &); wait"


@pytest.fixture
def pod():
    argv = ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", PAUSE]
    with subprocess.Popen(argv) as holder:
        try:
            pause = child(holder.pid, "sh", "-c", PAUSE)
            yield SimpleNamespace(pause=pause, first=child(pause, "sleep", "1000"))
        finally:
            subprocess.run(["kill", "-KILL", str(pause)], check=False)


def child(parent: int, *command: str) -> int:
    """Wait for a child that runs a command."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1] == list(command):
                    return int(pid)
        time.sleep(0.01)
    raise AssertionError(f"{parent} has no child {command}")


def test_an_orphan_that_the_pause_process_has_taken(pod):
    orphan = child(pod.pause, "sleep", "1001")
    source = SimpleNamespace(container=SimpleNamespace(pid=pod.first))
    preflight.sessions(source, [pod.first])
    with pytest.raises(
        Unsupported, match=rf"process {orphan} \(sleep 1001\) has lost its parent"
    ) as e:
        preflight.sessions(source, [pod.first, orphan])
    assert "shareProcessNamespace" in e.value.hint


def test_an_exec_session(pod):
    argv = ["nsenter", "-t", str(pod.pause), "-p", "sleep", "1002"]
    with subprocess.Popen(argv) as session:
        try:
            inside = child(session.pid, "sleep", "1002")
            source = SimpleNamespace(container=SimpleNamespace(pid=pod.first))
            with pytest.raises(Precondition, match=rf"process {inside} .*exec session"):
                preflight.sessions(source, [pod.first, inside])
        finally:
            subprocess.run(["kill", str(inside)], check=False)
