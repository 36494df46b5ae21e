"""The half of `bench/crowd` in the node: creates of one archive at once, and others meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import uuid
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.json_format import MessageToDict

from bench.node import workload
from bench.node.measuring import SCRATCH, arguments, fresh, settle, timed_ms
from bench.node.node import Cleanup, Node

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bench.node.node import Pod

CROWD = 8
SIZES = (2000,)
LAYER_PART = 4  # a quarter of the archive is writable layer, the rest memory
SMALL_MB = 100


def case(node: Node, megabytes: int, rounds: int) -> dict[str, Any]:
    """Measure with one size of the archive that the crowd is created from."""
    layer = megabytes // LAYER_PART
    with Cleanup() as cleanup:
        large = cleanup.pod(node)
        container = large.start("-memory-mb", str(megabytes - layer), "-layer-mb", str(layer))
        archive = fresh("crowd") / "large.tar"
        node.checkpoint(container, archive)
        node.remove(container)
        small, ordinary = cleanup.pod(node), cleanup.pod(node)
        dumped = small.start("-memory-mb", str(SMALL_MB))
        pods = [cleanup.pod(node) for _ in range(CROWD)]
        create_ms = crictl_create_ms(ordinary)
        alone = [pause_ms(small, dumped) for _ in range(rounds + 1)][1:]
        settle()
        crowd, pauses, creates = Crowd(pods, archive), [], []
        while crowd.busy:
            pauses.append(pause_ms(small, dumped))
            creates.append(create_ms())
        crowd.check()
        return {
            "creates": CROWD,
            "small_mb": SMALL_MB,
            "alone": alone,
            "in the crowd": pauses,
            "crictl create": creates,
            "crictl create alone": [create_ms() for _ in range(rounds)],
            "crowd": crowd.took_ms,
        }


class Crowd:
    """Creates of one archive in all pods at once, each in a thread."""

    def __init__(self, pods: list[Pod], archive: Path) -> None:
        self.took_ms: list[float] = []
        self._errors: list[str] = []
        self._threads = [threading.Thread(target=self._create, args=(pod, archive)) for pod in pods]
        for thread in self._threads:
            thread.start()

    def _create(self, pod: Pod, archive: Path) -> None:
        try:
            took_ms = timed_ms(lambda: pod.create(image=str(archive)))
            self.took_ms.append(round(took_ms))
        except grpc.RpcError as error:
            self._errors.append(str(error))

    @property
    def busy(self) -> bool:
        """Whether one of them goes on."""
        return any(thread.is_alive() for thread in self._threads)

    def check(self) -> None:
        """Fail if one of them did."""
        if self._errors:
            sys.exit(f"{len(self._errors)} of {CROWD} creates failed: {self._errors[0]}")


def pause_ms(pod: Pod, container: str) -> float:
    """Checkpoint a container; return for how long it stood still, as it saw it itself."""
    target = SCRATCH / "small.tar"
    target.unlink(missing_ok=True)
    workload.ask(pod.address, "reset")
    pod.node.checkpoint(container, target)
    return round(workload.standstill_ms(pod.address), 1)


def crictl_create_ms(pod: Pod) -> Callable[[], float]:
    """Return a function that creates an ordinary container by crictl and returns its time."""
    directory = fresh("ordinary")
    config = directory / "pod.json"
    config.write_text(json.dumps(MessageToDict(pod.config, preserving_proto_field_name=True)))

    def create() -> float:
        name = f"o-{uuid.uuid4().hex[:8]}"
        file = directory / f"{name}.json"
        said = {"metadata": {"name": name}, "image": {"image": workload.IMAGE}, "linux": {}}
        file.write_text(json.dumps(said))
        argv = ["crictl", "create", "--no-pull", pod.id, str(file), str(config)]
        return round(timed_ms(lambda: subprocess.run(argv, check=True, capture_output=True)))

    return create


def main() -> None:
    """Measure all sizes and print the figures."""
    rounds, sizes = arguments()
    with Node.open() as node:
        of_size = {
            f"{size} MB": case(node, size, rounds) for size in (SIZES if sizes is None else sizes)
        }
    print(json.dumps(of_size))


if __name__ == "__main__":
    main()
