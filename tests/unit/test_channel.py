"""The tests' own channel into a node; here the node is this machine."""

import subprocess
import threading
import time

import pytest

from tests.e2e.channel import Channel


@pytest.fixture
def channel():
    channel = Channel(("env",))
    yield channel
    channel.close()


def test_status_and_output_are_the_commands(channel):
    done = channel.run(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout_s=10)
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")
    assert channel.run(["no-such-program"], timeout_s=10).returncode == 127
    assert channel.run(["sh", "-c", "kill -9 $$"], timeout_s=10).returncode == 137


def test_commands_run_side_by_side(channel):
    begun = time.monotonic()
    threads = [
        threading.Thread(target=channel.run, args=(["sleep", "0.5"],), kwargs={"timeout_s": 10})
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - begun < 1.4


def test_a_command_that_takes_too_long_is_killed_and_the_next_runs(channel):
    with pytest.raises(subprocess.TimeoutExpired):
        channel.run(["sleep", "4321"], timeout_s=0.3)
    assert channel.run(["echo", "on"], timeout_s=10).stdout == "on\n"


def test_a_node_that_has_ended_is_entered_anew(channel):
    with pytest.raises(ConnectionError):
        channel.run(["sh", "-c", "kill -9 $PPID"], timeout_s=10)
    assert channel.run(["echo", "on"], timeout_s=10).stdout == "on\n"
