"""The machine's half of the benchmarks that need a node: a lab of their own, rounds, tables.

A benchmark is a program here and a module of its name in `node`. On the machine it brings a lab up
and starts that module inside a node; figures come back as one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.podman import CONFIGURATION, podman_layer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT = Path(__file__).resolve().parent.parent
LAB = str(ROOT / "scripts" / "lab")
IMAGE = "crishim.test/workload:1"
NODE_PYTHON = "/opt/crishim/bin/python"

Figures = dict[str, Any]


def arguments(description: str | None, *, rounds: int) -> argparse.Namespace:
    """Parse the options that all benchmarks share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=rounds, help=f"default {rounds}")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.add_argument("--keep", action="store_true", help="leave the lab up, for the next run")
    parser.add_argument(
        "--sizes", type=int, nargs="*", metavar="MB", help="only processes of these sizes"
    )
    return parser.parse_args()


@contextlib.contextmanager
def lab(*, containerd: str, podman: bool, keep: bool) -> Iterator[None]:
    """Run the block with a lab of one node that has the workload's image, and Podman if wanted."""
    run("up", "--containerd", containerd)
    run("reload")
    with tempfile.TemporaryDirectory(prefix="crishim-bench-") as name:
        image = Path(name)
        run("go", str(ROOT / "tests" / "workload"), str(image / "workload"))
        (image / "tmp").mkdir()
        run("image", IMAGE, name, "--", "/workload")
        if podman:
            install_podman(image)
    try:
        yield
    finally:
        if not keep:
            run("down")


def install_podman(image: Path) -> None:
    """Put Podman into the node, and the workload's image into its store.

    Podman comes from the distribution of the node's root, as a layer that is made once.
    """
    pipe(["tar", "-C", str(podman_layer()), "-c", "usr", "etc"], "tar", "-C", "/", "-x")
    for path, text in CONFIGURATION.items():
        script = 'mkdir -p "${0%/*}" && cat > "$0"'
        argv = [LAB, "exec", "node1", "--", "sh", "-c", script, path]
        subprocess.run(argv, input=text, text=True, check=True, env=environment())
    pipe(["tar", "-C", str(image), "-c", "."], "podman", "import", "--quiet", "-", IMAGE)


def pipe(source: Sequence[str], *node_command: str) -> None:
    """Send the output of a program of the machine into a command in the node."""
    with subprocess.Popen(source, stdout=subprocess.PIPE) as process:
        subprocess.run(
            [LAB, "exec", "node1", "--", *node_command],
            stdin=process.stdout,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
            env=environment(),
        )


def run(*words: str) -> str:
    """Run one command of scripts/lab; its output is shown only if it fails."""
    argv = [LAB, *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment())
    if done.returncode != 0:
        sys.exit(f"scripts/lab {' '.join(words)}:\n{done.stdout}{done.stderr}")
    return done.stdout


def environment() -> dict[str, str]:
    """Return this process's own, with the name of a lab for benchmarks where it has none."""
    return {"CRISHIM_LAB_NAME": "bench", **os.environ}


def in_node(options: argparse.Namespace) -> subprocess.Popen[str]:
    """Start this benchmark's other half inside the node; figures come on its standard output."""
    argv = [LAB, "exec", "node1", "--", "env", "PYTHONPATH=/src", NODE_PYTHON, "-B", "-m"]
    argv += [f"bench.node.{Path(sys.argv[0]).name}", "--rounds", str(options.rounds)]
    if options.sizes is not None:
        argv += ["--sizes", *map(str, options.sizes)]
    pipe = subprocess.PIPE
    return subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, bufsize=1, env=environment())


def figures_of(options: argparse.Namespace) -> Figures:
    """Run the other half to its end and return what it measured."""
    process = in_node(options)
    output, _ = process.communicate()
    if process.returncode != 0:
        sys.exit(process.returncode)
    figures: Figures = json.loads(output)
    return figures


def show(options: argparse.Namespace, figures: Figures, table: Callable[[Figures], str]) -> None:
    """Print figures as JSON or as a table."""
    print(json.dumps(figures) if options.json else table(figures))
