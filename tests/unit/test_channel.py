"""The tests' own channel into a node; here the node is this machine."""

import os
import subprocess
import threading

import pytest

from tests.e2e.channel import Channel


@pytest.fixture
def channel():
    channel = Channel(("env",))
    yield channel
    channel.close()


def test_status_and_output_are_the_commands(channel):
    done = channel.run(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout_s=60)
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")
    assert channel.run(["no-such-program"], timeout_s=60).returncode == 127
    assert channel.run(["sh", "-c", "kill -9 $$"], timeout_s=60).returncode == 137


def test_commands_run_side_by_side(channel, tmp_path):
    """Neither of these two ends without the other."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    heard = []
    thread = threading.Thread(
        target=lambda: heard.append(channel.run(["cat", str(fifo)], timeout_s=60).stdout)
    )
    thread.start()
    channel.run(["sh", "-c", 'echo hello > "$0"', str(fifo)], timeout_s=60)
    thread.join()
    assert heard == ["hello\n"]


def test_a_command_that_takes_too_long_is_killed_and_the_next_runs(channel):
    with pytest.raises(subprocess.TimeoutExpired):
        channel.run(["sleep", "4321"], timeout_s=0.1)
    assert channel.run(["echo", "on"], timeout_s=60).stdout == "on\n"


def test_a_node_that_has_ended_is_entered_anew(channel):
    with pytest.raises(ConnectionError):
        channel.run(["sh", "-c", "kill -9 $PPID"], timeout_s=60)
    assert channel.run(["echo", "on"], timeout_s=60).stdout == "on\n"
