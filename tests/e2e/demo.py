"""The main job once through, for people to look at; `scripts/demo` starts it.

Standard library only: it runs on a machine that has nothing of ours yet.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("CRISHIM_LAB_NAME", "demo")

from tests.e2e import nodes

ARCHIVE = "/var/lib/crishim/demo.tar"


class Timeline:
    """Prints what happens, with the seconds since the start and of each step."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._last = self._start

    def say(self, text: str) -> None:
        """Print one line."""
        now = time.monotonic()
        print(f"{now - self._start:7.2f} s  (+{now - self._last:5.2f})  {text}", flush=True)
        self._last = now


def main() -> int:
    """Run the demonstration; return 0 if the client saw no error."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__.splitlines()[0])
    parser.add_argument("--memory-mb", type=int, default=100, help="memory of the server")
    parser.add_argument("--keep", action="store_true", help="leave the node up afterwards")
    options = parser.parse_args()
    line = Timeline()
    subprocess.run([str(nodes.LAB), "up"], check=True, stdin=subprocess.DEVNULL)
    line.say("a node is up")
    node = nodes.Node("node1")
    try:
        report = move(node, line, options.memory_mb)
    finally:
        node.clean()
        node.exec("rm", "-f", ARCHIVE)
        if not options.keep:
            nodes.lab("down")
    return verdict(report)


def move(node: nodes.Node, line: Timeline, memory_mb: int) -> dict:
    """Checkpoint with stop, remove the pod, restore into a new one; return the client's report."""
    with tempfile.TemporaryDirectory() as name:
        image = Path(name)
        nodes.lab("go", str(nodes.ROOT / "tests" / "workload"), str(image / "workload"))
        (image / "tmp").mkdir()
        nodes.lab("image", nodes.IMAGE, str(image), "--", "/workload")
    pod = node.pod()
    container = pod.run("-memory-mb", str(memory_mb))
    address = pod.address
    digest = nodes.ask(address, "sum")
    client = nodes.Client(address)
    client.wait_answers(200)
    line.say(f"a server with {memory_mb} MB at {address}; a client counts on one connection")
    client.mark()

    out = node.exec(
        "crishim", "checkpoint", container, "--stop", "--output", ARCHIVE, "--json"
    ).splitlines()
    result = json.loads(out[-1])["result"]
    line.say(f"checkpointed and stopped: {int(result['statistics']['archive_bytes']) >> 20} MB")
    show_phases(result["statistics"]["phases"])
    pod.remove()
    line.say("its pod is removed")
    successor = node.pod()
    line.say(f"a new pod, which CNI gave the address {successor.address}")
    revived = successor.create(ARCHIVE)
    line.say("a container created with the archive as its image")
    node.crictl("start", revived)
    line.say(f"started: the pod's address is {successor.address}")
    client.wait_answers(200)
    stood_still = int(nodes.ask(address, "gap").split()[1])
    same = nodes.ask(address, "sum") == digest
    report = client.close()
    return {**report, "same_memory": same, "outage_ms": stood_still / 1e3}


def show_phases(phases: list[dict]) -> None:
    """Print the steps of the checkpoint."""
    for phase in phases:
        print(f"{'':20}{int(phase['duration_us']) / 1e3:8.1f} ms  {phase['name']}")


def verdict(report: dict) -> int:
    """Print what the client saw and return the exit status."""
    print(
        f"\nthe server stood still for {report['outage_ms']:.0f} ms; "
        f"the client's longest gap was {report['gap_ms']:.0f} ms\n"
        f"{report['answered']} messages, {report['counted']} counted, "
        f"{len(report['errors'])} errors, {len(report['wire'])} RST, FIN or ICMP errors, "
        f"memory {'unchanged' if report['same_memory'] else 'CHANGED'}"
    )
    good = not report["errors"] and not report["wire"] and report["same_memory"]
    return 0 if good and report["counted"] == report["answered"] else 1


if __name__ == "__main__":
    sys.exit(main())
