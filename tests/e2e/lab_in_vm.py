"""The main job on a lab that runs inside the virtual machine: a program for its Python.

Prints a JSON object: what the client saw, the nodes' cgroup version, what `down` left.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, "/src")

from tests.e2e import nodes

ARCHIVE = "/var/lib/crishim/test.tar"
WITHIN_S = 240


def main_job(node: nodes.Node) -> dict:
    """Checkpoint with stop, pod removed, new pod restored; return the client's report."""
    pod = node.pod()
    container = pod.run("-memory-mb", "20")
    address = pod.address
    node.sh(f"until nc -z {address} 9000; do sleep 0.2; done")
    client = nodes.Client(address, "--period-ms", "50")
    client.wait_answers(10, within_s=WITHIN_S)
    node.exec("crishim", "checkpoint", container, "--stop", "--output", ARCHIVE)
    pod.remove()
    target = node.pod()
    node.crictl("--timeout", "200s", "start", target.create(ARCHIVE))
    client.wait_answers(10, within_s=WITHIN_S)
    return client.close() | {"same address": target.address == address}


def main() -> None:
    """Bring a lab up, do the main job in it, take it down."""
    nodes.Client.LIFE_S = 800
    nodes.lab("up", timeout_s=1200)
    nodes.lab("image", nodes.IMAGE, "/root/image", "--", "/workload")
    node = nodes.Node("node1")
    report = main_job(node)
    report["cgroup"] = node.exec("stat", "-f", "-c", "%T", "/sys/fs/cgroup").strip()
    node.clean()
    nodes.lab("down")
    left = [Path("/sys/fs/cgroup/crishim-lab"), Path("/run/netns/crishim-lab")]
    left += list(Path("/var/lib/crishim-lab").glob("lab/*"))
    report["left"] = [str(path) for path in left if path.exists()]
    print(json.dumps(report))


main()
