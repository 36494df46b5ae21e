"""The half of `bench/checkpoint` in the node: four ways in turns, call and pause of each."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

from bench.node import rivals, workload
from bench.node.measuring import arguments, fresh, fsync_all, median, settle, timed_ms
from bench.node.node import Node

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIZES = (0, 100, 500)
LAYER = ("-layer-mb", "1024", "-layer-mb-s", "4")
LAYER_CASE = "1 GB layer"
PODMAN_PORT = 9100


def measure(node: Node, rounds: int, sizes: list[int] | None) -> dict[str, Any]:
    """Measure all cases, one after the other, the ways in turns."""
    cases: dict[str, tuple[str, ...]] = {
        f"{size} MB": ("-memory-mb", str(size)) for size in sizes or SIZES
    }
    if not sizes:
        cases[LAYER_CASE] = LAYER
    return {title: case(node, arguments, rounds) for title, arguments in cases.items()}


def case(node: Node, arguments: tuple[str, ...], rounds: int) -> dict[str, Any]:
    """Measure one process."""
    pod = node.pod()
    container = pod.start(*arguments)
    rivals.podman_run(PODMAN_PORT, *arguments)
    calls = ways(node, container)
    places = dict.fromkeys(calls, (pod.address, workload.PORT))
    places["podman"] = ("127.0.0.1", PODMAN_PORT)
    series: dict[str, dict[str, list[float]]] = {way: {"call": [], "pause": []} for way in calls}
    names = list(calls)
    for turn in range(-1, rounds):
        for way in [names[(turn + i) % len(names)] for i in range(len(names))]:
            directory = fresh("out")
            settle()
            address, port = places[way]
            workload.ask(address, "reset", port)
            call_ms = timed_ms(partial(calls[way], directory))
            pause_ms = workload.standstill_ms(address, port)
            if turn >= 0:  # the turn before the first warms up
                series[way]["call"].append(call_ms)
                series[way]["pause"].append(pause_ms)
    rivals.podman_remove()
    pod.remove()
    return {
        way: {what: {"median": median(v), "all": v} for what, v in values.items()}
        for way, values in series.items()
    }


def ways(node: Node, container: str) -> dict[str, Callable[[Path], None]]:
    """Return the four ways as functions of the directory that is to have the outcome.

    The first one is what the others are compared with.
    """

    def runc(directory: Path) -> None:
        images = directory / "images"
        images.mkdir()
        rivals.Runc().checkpoint(container, images, "--leave-running")
        fsync_all(images)

    return {
        "runc + fsync": runc,
        "crishim": lambda to: node.checkpoint(container, to / "archive.tar"),
        "containerd": lambda to: node.checkpoint(container, to / "archive.tar", direct=True),
        "podman": lambda to: rivals.podman_checkpoint(to / "archive.tar", "--leave-running"),
    }


if __name__ == "__main__":
    with Node.open() as opened:
        print(json.dumps(measure(opened, *arguments())))
