"""Moving a container from one pod to the next, as many tests do it."""

from __future__ import annotations

import json

from tests.e2e import nodes
from tests.e2e.waiting import eventually as eventually

ARCHIVE = "/var/lib/crishim/test.tar"


def checkpoint(node: nodes.Node, container: str, *options: str, archive: str = ARCHIVE) -> dict:
    """Run `crishim checkpoint --json` and return its result."""
    out = node.exec("crishim", "checkpoint", container, "--json", "--output", archive, *options)
    return json.loads(out.splitlines()[-1])["result"]


def stopped(node: nodes.Node) -> tuple[nodes.Pod, str, nodes.Client]:
    """A pod whose container a checkpoint has stopped, its address, a client that waits."""
    pod = node.pod()
    container = pod.run()
    address = pod.address
    client = nodes.Client(address)
    client.wait_answers(20)
    checkpoint(node, container, "--stop")
    return pod, address, client


def move(pod: nodes.Pod, container: str, **config: object) -> tuple[nodes.Pod, str]:
    """Checkpoint with stop, remove the pod, restore in a new one; return that and the container.

    Args: config: of the new pod.
    """
    node = pod.node
    checkpoint(node, container, "--stop")
    pod.remove()
    successor = node.pod(**config)
    revived = successor.create(ARCHIVE)
    node.crictl("start", revived)
    node.exec("rm", ARCHIVE)
    return successor, revived


def assert_unharmed(report: dict) -> None:
    """Nothing lost, repeated or reset; the counter in memory went on."""
    assert report["errors"] == [], report
    assert report["wire"] == [], report
    assert report["counted"] == report["answered"], report


def times_sent_again(address: str) -> int:
    """Return how often the client's kernel has sent the same data again in vain."""
    shown = nodes.lab("net", "--", "ss", "-tinH", "state", "established", "dst", f"[{address}]")
    return max([int(word[8:]) for word in shown.split() if word.startswith("backoff:")], default=0)
