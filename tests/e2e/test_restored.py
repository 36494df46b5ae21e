"""A restored container is an ordinary one, whatever becomes of crishim while it runs."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from tests.e2e import nodes
from tests.e2e.moves import ARCHIVE, assert_unharmed, checkpoint, eventually, move

if TYPE_CHECKING:
    from collections.abc import Callable

CRISHIM = "unix:///run/crishim/crishim.sock"
CONTAINERD = "unix:///run/containerd/containerd.sock"
MEMORY_MB = 20
LIMIT_BYTES = 300 << 20
# The value of a cgroup's file on the node, for a process: of cgroup v1's controller, or of v2.
CGROUP_VALUE = """
import sys
from pathlib import Path
pid, controller, v1, v2 = sys.argv[1:]
for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
    _, controllers, path = line.split(":", 2)
    if controller in controllers.split(","):
        print(Path(f"/sys/fs/cgroup/{controller}{path}/{v1}").read_text())
        break
    if not controllers:
        unified = Path(f"/sys/fs/cgroup{path}/{v2}")
else:
    print(unified.read_text())
"""


@dataclass(frozen=True)
class Revived:
    """A container that was moved into another pod, with its old address."""

    pod: nodes.Pod
    container: str
    address: str
    endpoint: str = CRISHIM

    @property
    def node(self) -> nodes.Node:
        return self.pod.node

    def crictl(self, *words: str) -> str:
        return self.node.exec("crictl", "-r", self.endpoint, *words)

    def status(self) -> dict:
        """What `crictl inspect` says of its state."""
        return json.loads(self.crictl("inspect", self.container))["status"]

    def cgroup_value(self, controller: str, v1: str, v2: str) -> int:
        """A number from a file of its cgroup."""
        pid = str(json.loads(self.crictl("inspect", self.container))["info"]["pid"])
        return int(self.node.exec("python3", "-c", CGROUP_VALUE, pid, controller, v1, v2))


@pytest.fixture
def revived(node):
    """A restored container; both services run afterwards, as before."""
    pod = node.pod()
    container = pod.run("-memory-mb", str(MEMORY_MB), "-log-every", "20ms")
    address = pod.address
    assert nodes.ask(address, "count 1") == "count 1 1"
    successor, container = move(pod, container)
    yield Revived(successor, container, address)
    node.exec("service", "crishim", "start")
    node.exec("rm", "-f", ARCHIVE)


def numbers(log: str) -> list[int]:
    """Return the numbers of the workload's lines, in a CRI log or without its columns."""
    return [int(line.split()[-1]) for line in log.splitlines() if "line " in line]


def test_an_ordinary_container(revived):
    """Statistics, limits, exec, a rotated log and a stop, all through crictl."""
    node, container = revived.node, revived.container
    (stats,) = json.loads(node.crictl("stats", "-o", "json", "--id", container))["stats"]
    assert int(stats["memory"]["workingSetBytes"]["value"]) > MEMORY_MB << 20
    assert int(stats["cpu"]["usageCoreNanoSeconds"]["value"]) > 0
    node.crictl("update", "--memory", str(LIMIT_BYTES), "--cpu-quota", "40000", container)
    assert revived.cgroup_value("memory", "memory.limit_in_bytes", "memory.max") == LIMIT_BYTES
    assert int(revived.status()["resources"]["linux"]["memoryLimitInBytes"]) == LIMIT_BYTES
    assert_log_is_rotated(revived)
    assert_exec(revived)
    assert nodes.ask(revived.address, "count 2") == "count 2 2"
    node.crictl("stop", "--timeout", "10", container)
    assert revived.status()["state"] == "CONTAINER_EXITED"
    assert (revived.status()["exitCode"], revived.status()["reason"]) == (0, "Completed")
    assert numbers(node.crictl("logs", container)) != []
    node.crictl("rm", container)
    assert container not in node.crictl("ps", "-a", "-q").split()


def assert_log_is_rotated(revived: Revived) -> None:
    """Move the log's file away and have it opened again; each line is in one of the two, once."""
    node, log = revived.node, revived.status()["logPath"]
    node.exec("mv", log, f"{log}.1")
    node.crictl("logs", "--reopen", revived.container)
    eventually(lambda: len(node.exec("cat", log).splitlines()) > 20)
    lines = numbers(node.exec("cat", f"{log}.1", log))
    assert lines == list(range(len(lines)))


def succeeds(command: Callable[..., str], *words: str) -> bool:
    try:
        command(*words)
    except nodes.CommandFailed:
        return False
    return True


def assert_exec(revived: Revived) -> None:
    """A command runs in the container, and its exit code comes back."""
    with pytest.raises(nodes.CommandFailed) as failed:
        revived.crictl("exec", revived.container, "/workload", "-no-such-flag")
    assert "flag provided but not defined" in failed.value.stderr
    assert "exit code 2" in failed.value.stderr


def test_its_own_exit_code_is_known(revived):
    """One that ends by itself is reported with its exit code, and is not started again."""
    nodes.ask(revived.address, "exit 7")
    eventually(lambda: revived.status()["state"] == "CONTAINER_EXITED", outcome=True)
    assert (revived.status()["exitCode"], revived.status()["reason"]) == (7, "Error")
    with pytest.raises(nodes.CommandFailed):
        revived.node.crictl("start", revived.container)


def test_crishim_is_upgraded(revived):
    """One that runs goes on, its client too; one that was created only is restored by its start."""
    node = revived.node
    checkpoint(node, revived.container)
    copy = node.pod()
    waiting = copy.create(ARCHIVE)
    client = nodes.Client(revived.address)
    client.wait_answers(20)
    before = node.exec("service", "crishim", "status")
    nodes.lab("reload")
    assert node.exec("service", "crishim", "status") != before  # its process id is in it
    client.wait_answers(20)
    assert_unharmed(client.close())
    assert_exec(revived)
    node.crictl("start", waiting)
    assert nodes.ask(copy.address, "count 2") == "count 2 2"
    checkpoint(node, revived.container, "--force")
    node.crictl("stop", "--timeout", "10", revived.container)
    assert revived.status()["exitCode"] == 0


@pytest.fixture
def removed(revived):
    """A restored container on a node from which crishim is gone for the time of the test."""
    node = revived.node
    client = nodes.Client(revived.address)
    client.wait_answers(20)
    node.exec("service", "crishim", "crash")
    node.exec("mv", "/opt/crishim", "/opt/crishim.away")
    try:
        client.wait_answers(20)
        assert_unharmed(client.close())
        yield replace(revived, endpoint=CONTAINERD)
    finally:
        node.exec("mv", "/opt/crishim.away", "/opt/crishim")


def test_crishim_is_removed(removed):
    """Straight at containerd the container is used, stopped and removed, and so is its pod."""
    container, crictl = removed.container, removed.crictl
    assert_exec(removed)
    crictl("update", "--memory", str(LIMIT_BYTES), container)
    assert removed.cgroup_value("memory", "memory.limit_in_bytes", "memory.max") == LIMIT_BYTES
    crictl("stop", "--timeout", "10", container)
    assert removed.status()["exitCode"] == 0
    crictl("rm", container)
    eventually(lambda: succeeds(crictl, "stopp", removed.pod.id))  # as a kubelet does
    crictl("rmp", removed.pod.id)
    left = removed.node.exec("runc", "--root", "/run/containerd/runc/k8s.io", "list")
    assert container not in left
