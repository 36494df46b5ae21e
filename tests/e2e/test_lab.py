"""The lab itself: what passes through `exec`, what images keep, what is left after `down`.

It has a name of its own, so that it can come and go beside the lab of the other tests.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.e2e.nodes import LAB
from tests.e2e.waiting import eventually

NAME = "selftest"
ENVIRONMENT = {**os.environ, "CRISHIM_LAB_NAME": NAME}
CONTAINERD = "unix:///run/containerd/containerd.sock"


def lab(*words, stdin=b"", ok=True):
    """Run one command of scripts/lab; return it completed, output as bytes."""
    done = subprocess.run(
        [str(LAB), *words], input=stdin, capture_output=True, env=ENVIRONMENT, check=False
    )
    assert not ok or done.returncode == 0, done.stdout + done.stderr
    return done


def in_node(*argv, **how):
    return lab("exec", "node1", "--", *argv, **how)


def traces():
    """Return what the lab has on the machine: cgroups, namespaces, mounts, processes, files."""
    cgroups = list(Path("/sys/fs/cgroup").glob(f"*/crishim-{NAME}"))
    cgroups += list(Path("/sys/fs/cgroup").glob(f"crishim-{NAME}"))
    netns = list(Path("/run/netns").glob(f"crishim-{NAME}"))
    state = Path(os.environ.get("CRISHIM_LAB_STATE", "/var/lib/crishim-lab"), NAME)
    mounts = [
        line
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if str(state) in line or f"crishim-{NAME}" in line
    ]
    processes = []
    for path in Path("/proc").glob("[0-9]*/cgroup"):
        try:
            lines = path.read_text().splitlines()
        except OSError:  # ended in the meantime
            continue
        # An ended process that the machine's process 1 has yet to reap is in a deleted cgroup.
        if any(f"/crishim-{NAME}/" in line and "(deleted)" not in line for line in lines):
            processes.append(path.parent.name)
    return [*cgroups, *netns, *mounts, *processes, *([state] if state.exists() else [])]


@pytest.fixture(scope="module")
def node_up():
    lab("up")
    yield
    lab("down")


@pytest.mark.usefixtures("node_up")
class TestExec:
    def test_bytes_pass_both_ways(self):
        data = os.urandom(3_000_000)
        assert in_node("cat", stdin=data).stdout == data

    def test_errors_and_exit_status_pass(self):
        done = in_node("sh", "-c", "echo out; echo err >&2; exit 7", ok=False)
        assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 7)
        assert in_node("sh", "-c", "kill -9 $$", ok=False).returncode == 128 + signal.SIGKILL
        assert in_node("no-such-program", ok=False).returncode == 127

    def test_a_signal_ends_the_command(self):
        script = "trap 'echo ended; exit 5' TERM; echo ready; while :; do sleep 0.1; done"
        argv = [str(LAB), "exec", "node1", "--", "sh", "-c", script]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, env=ENVIRONMENT) as running:
            assert running.stdout is not None
            assert running.stdout.readline() == b"ready\n"
            running.terminate()
            assert running.stdout.read() == b"ended\n"
        assert running.returncode == 5

    def test_a_killed_exec_takes_its_command_along(self):
        argv = [str(LAB), "exec", "node1", "--", "sh", "-c", "echo ready; exec sleep 4321"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, env=ENVIRONMENT) as running:
            assert running.stdout is not None
            assert running.stdout.readline() == b"ready\n"
            running.kill()
        look = ("pgrep", "-f", "sleep 4321", "-r", "S,R,D")
        outlived = "the command outlived its exec"
        eventually(lambda: in_node(*look, ok=False).returncode, what=outlived, outcome=True)


@pytest.mark.usefixtures("node_up")
def test_an_image_keeps_owners_modes_and_links(tmp_path):
    (tmp_path / "a").write_bytes(bytes(100_000))
    os.link(tmp_path / "a", tmp_path / "b")
    os.chown(tmp_path / "a", 12, 34)
    (tmp_path / "a").chmod(0o640)
    (tmp_path / "c").symlink_to("a")
    reference = lab("image", "kept:1", str(tmp_path), "--", "/a").stdout.decode().strip()
    look = (
        f"m=$(mktemp -d); ctr -n k8s.io images mount {reference} $m >/dev/null;"
        " stat -c '%n %u %g %a %h' $m/a $m/b | sed s:$m/::; readlink $m/c;"
        " ctr -n k8s.io images unmount --rm $m >/dev/null"
    )
    seen = in_node("sh", "-ec", look).stdout.decode().splitlines()
    assert seen == ["a 12 34 640 2", "b 12 34 640 2", "a"]


@pytest.mark.usefixtures("node_up")
def test_an_image_can_be_removed_and_pulled_again(tmp_path):
    (tmp_path / "file").write_text("x")
    reference = lab("image", "pulled:1", str(tmp_path)).stdout.decode().strip()
    in_node("crictl", "-r", CONTAINERD, "rmi", reference)
    gone = in_node("crictl", "-r", CONTAINERD, "inspecti", "-q", reference, ok=False)
    assert gone.returncode != 0
    in_node("crictl", "-r", CONTAINERD, "pull", reference)


@pytest.mark.usefixtures("node_up")
def test_a_killed_service_comes_back_and_a_stopped_one_stays_away():
    in_node("service", "containerd", "kill")
    status = ("service", "containerd", "status")
    eventually(lambda: in_node(*status, ok=False).returncode == 0, within_s=30, what="containerd")
    in_node("service", "containerd", "stop")
    assert in_node("service", "containerd", "status", ok=False).returncode == 3
    in_node("service", "containerd", "start")


def test_a_killed_up_or_node_is_no_obstacle_and_down_leaves_nothing():
    for step in ("clear what was there", "start nodes", "node1: containerd"):
        lab("down")
        with subprocess.Popen([str(LAB), "up"], stdout=subprocess.PIPE, env=ENVIRONMENT) as up:
            assert up.stdout is not None
            for line in up.stdout:
                if line.startswith(step.encode()):
                    break
            up.kill()
    lab("up")
    pid = next(
        line.split()[4].rstrip(";")
        for line in lab("status", ok=False).stdout.decode().splitlines()
        if "process 1 is" in line
    )
    os.kill(int(pid), signal.SIGKILL)
    lab("up")
    in_node("crictl", "-r", CONTAINERD, "version")
    lab("down")
    assert traces() == []
    lab("down")
