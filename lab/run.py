"""Run programs of the machine and say how long steps take. No shell anywhere."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

from lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

_OUTPUT_TAIL_LINES = 25
_print_lock = threading.Lock()


def say(line: str) -> None:
    """Print one whole line at once, also from several threads."""
    with _print_lock:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


@contextlib.contextmanager
def step(label: str) -> Iterator[None]:
    """Print the label and the seconds that the block took, once it succeeded."""
    start = time.monotonic()
    yield
    say(f"{label:<58} {time.monotonic() - start:6.1f} s")


def run(
    argv: Sequence[str],
    *,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    ok_exits: Sequence[int] = (0,),
) -> str:
    """Run a program to its end and return what it wrote to stdout.

    Raises: LabError: missing program, or an exit status not in `ok_exits`; with the last lines
        of what it printed.
    """
    try:
        done = subprocess.run(
            argv,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            env=env,
            cwd=cwd,
            check=False,
        )
    except FileNotFoundError as missing:
        raise LabError(f"{argv[0]}: not found on this machine") from missing
    if done.returncode not in ok_exits:
        lines = (done.stdout + done.stderr).strip().splitlines()
        tail = "\n".join("  " + line for line in lines[-_OUTPUT_TAIL_LINES:])
        raise LabError(f"{' '.join(argv)[:300]}: exit {done.returncode}\n{tail}")
    return done.stdout
