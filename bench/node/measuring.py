"""Times, rest for the disk, and directories for what is measured."""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SCRATCH = Path("/var/lib/crishim/bench")
"""On the disk, like the store."""


def arguments() -> tuple[int, list[int] | None]:
    """Return the rounds to measure and the sizes in MB, None for a benchmark's own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--sizes", type=int, nargs="*")
    found = parser.parse_args()
    return found.rounds, found.sizes


def timed_ms(work: Callable[[], object]) -> float:
    """Return how long a call took."""
    begin = time.perf_counter()
    work()
    return (time.perf_counter() - begin) * 1e3


def median(values: Sequence[float]) -> float:
    """Return the median to a tenth."""
    return round(statistics.median(values), 1)


def settle() -> None:
    """Let the disk come to rest: nobody is to pay for another's dirty pages."""
    os.sync()
    time.sleep(0.1)


def fresh(name: str) -> Path:
    """Return an empty directory on the disk."""
    path = SCRATCH / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def fsync_all(directory: Path) -> None:
    """Make the files of a directory durable, and itself."""
    for path in (*directory.iterdir(), directory):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def call(argv: Sequence[str], env: dict[str, str] | None = None) -> None:
    """Run a program; show what it says only if it fails, and end with it."""
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(env or {})},
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"{' '.join(argv)}: {done.returncode}\n{done.stdout[-3000:]}")
