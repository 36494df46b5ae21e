"""The half of `bench/move` in the node: does what the lines on its input say, answers in JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.node import rivals, workload
from bench.node.measuring import arguments, fresh, settle, timed_ms
from bench.node.node import Cleanup, Node

if TYPE_CHECKING:
    from bench.node.node import Pod

RAW_PORT = 9200


@dataclass(slots=True)
class Mover:
    """The workload, moved from pod to pod.

    Attributes: target, waiting: the next pod, and the container in it that waits.
    """

    node: Node
    memory: tuple[str, ...]
    pod: Pod
    container: str
    address: str
    target: Pod
    waiting: str = ""

    @classmethod
    def begin(cls, node: Node, memory: tuple[str, ...]) -> Mover:
        """Start the workload in a first pod."""
        pod = node.pod()
        container = pod.start(*memory)
        return cls(node, memory, pod, container, pod.address, pod)

    def prepare(self) -> dict[str, Any]:
        """Make the next pod, and a container that waits in it."""
        self.target = self.node.pod()
        self.waiting = self.target.create(*self.memory)
        workload.ask(self.address, "reset")
        settle()
        return {}

    def move(self) -> dict[str, Any]:
        """Move the workload there; return crishim's own timeline."""
        archive = fresh("move") / "archive.tar"
        return {"phases_ms": self.node.move(archive, self.container, self.waiting)}

    def seen(self) -> dict[str, Any]:
        """Return the standstill that the workload has seen; its first pod goes."""
        outage_ms = workload.standstill_ms(self.address)
        self.pod.remove()
        self.pod, self.container = self.target, self.waiting
        return {"outage_ms": outage_ms}

    def end(self) -> dict[str, Any]:
        """Remove the last pod."""
        self.pod.remove()
        return {}


def raw(bundle: rivals.Bundle, address: str) -> dict[str, Any]:
    """Pause, checkpoint and restore in place; return the standstill and its parts in ms."""
    images = fresh("raw") / "images"
    images.mkdir()
    settle()
    workload.ask(address, "reset", RAW_PORT)
    steps = {
        "pause": lambda: bundle.runc.call("pause", bundle.name),
        "checkpoint": lambda: bundle.runc.checkpoint(bundle.name, images, **rivals.QUICK),
        "restore": lambda: bundle.runc.restore(
            bundle.name, images, bundle.directory, **rivals.QUICK
        ),
    }
    phases = {f"raw {name}": timed_ms(step) for name, step in steps.items()}
    return {"raw_ms": workload.standstill_ms(address, RAW_PORT), "phases_ms": phases}


def serve(node: Node, size: int) -> None:
    """Answer until the input ends."""
    memory = ("-memory-mb", str(size))
    with Cleanup() as cleanup:
        raw_pod = cleanup.pod(node)
        bundle = rivals.Bundle(raw_pod, *memory, port=RAW_PORT)
        cleanup.callback(bundle.remove)
        mover = Mover.begin(node, memory)
        answers = {
            "raw": lambda: raw(bundle, raw_pod.address),
            "prepare": mover.prepare,
            "move": mover.move,
            "seen": mover.seen,
            "end": mover.end,
        }
        print(json.dumps({"address": mover.address}), flush=True)
        for line in sys.stdin:
            print(json.dumps(answers[line.strip()]()), flush=True)


def main() -> None:
    """Serve the one size that is named."""
    _, sizes = arguments()
    assert sizes
    with Node.open() as node:
        serve(node, sizes[0])


if __name__ == "__main__":
    main()
