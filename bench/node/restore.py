"""The half of `bench/restore` in the node: each way restores once a turn, and is checked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bench.node import rivals, workload
from bench.node.measuring import arguments, fresh, median, settle, timed_ms
from bench.node.node import Cleanup, Node

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Times = tuple[float, float]
    """Of create and start, in ms."""

SIZES = (0, 500)
PODMAN_PORT = 9100


def case(node: Node, megabytes: int, rounds: int) -> dict[str, Any]:
    """Measure one size; the first way is what the others are compared with."""
    memory = ("-memory-mb", str(megabytes))
    with Cleanup() as cleanup:
        ways: dict[str, Callable[[], Times]] = {
            "runc restore": raw_way(node, cleanup, memory),
            "crishim": new_way(node, cleanup, memory),
            "crishim, address kept": lambda: kept(node, memory),
            "podman": podman_way(cleanup, memory),
        }
        series: dict[str, list[Times]] = {way: [] for way in ways}
        for turn in range(-1, rounds):
            for way, restore in ways.items():
                settle()
                times = restore()
                if turn >= 0:  # the turn before the first warms up
                    series[way].append(times)
    return {
        way: {
            "create": median([create for create, _ in values]),
            "start": median([start for _, start in values]),
            "create + start": median([sum(both) for both in values]),
            "all": values,
        }
        for way, values in series.items()
    }


def raw_way(node: Node, cleanup: Cleanup, memory: tuple[str, ...]) -> Callable[[], Times]:
    """Restore by runc from a directory of images."""
    pod = cleanup.pod(node)
    bundle = rivals.Bundle(pod, *memory, port=workload.PORT)
    cleanup.callback(bundle.remove)
    expected = workload.ask(pod.address, "sum")
    images = fresh("raw") / "images"
    images.mkdir()
    bundle.runc.checkpoint(bundle.name, images, **rivals.QUICK)

    def restore() -> Times:
        bundle.remove()
        start_ms = timed_ms(
            lambda: bundle.runc.restore(bundle.name, images, bundle.directory, **rivals.QUICK)
        )
        assert workload.ask(pod.address, "sum") == expected
        return 0.0, start_ms

    return restore


def new_way(node: Node, cleanup: Cleanup, memory: tuple[str, ...]) -> Callable[[], Times]:
    """Restore by crishim into a new pod, whose source goes on."""
    source = cleanup.pod(node)
    container = source.start(*memory)
    expected = workload.ask(source.address, "sum")
    archive = fresh("new") / "archive.tar"
    node.checkpoint(container, archive)
    return lambda: restored(node, archive, expected)


def kept(node: Node, memory: tuple[str, ...]) -> Times:
    """Restore by crishim a container that its checkpoint has stopped: address and connections."""
    source = node.pod()
    container = source.start(*memory)
    expected = workload.ask(source.address, "sum")
    archive = fresh("kept") / "archive.tar"
    node.stop_into(archive, container)
    source.remove()
    settle()
    return restored(node, archive, expected)


def restored(node: Node, archive: Path, expected: str) -> Times:
    """Restore an archive into a new pod over CRI."""
    pod = node.pod()
    made: list[str] = []
    create_ms = timed_ms(lambda: made.append(pod.create(image=str(archive))))
    start_ms = timed_ms(lambda: node.start(made[0]))
    assert workload.ask(pod.address, "sum") == expected
    pod.remove()
    return create_ms, start_ms


def podman_way(cleanup: Cleanup, memory: tuple[str, ...]) -> Callable[[], Times]:
    """Restore by Podman's import."""
    rivals.podman_run(PODMAN_PORT, *memory)
    cleanup.callback(rivals.podman_remove)
    expected = workload.ask("127.0.0.1", "sum", PODMAN_PORT)
    archive = fresh("podman") / "archive.tar"
    rivals.podman_checkpoint(archive)

    def restore() -> Times:
        rivals.podman_remove()
        start_ms = timed_ms(lambda: rivals.podman_restore(archive))
        assert workload.ask("127.0.0.1", "sum", PODMAN_PORT) == expected
        return 0.0, start_ms

    return restore


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
