"""In the daemon of a test node: stop where a step of a flow begins. See `__init__.py`."""

import contextlib
import os
import stat
import sys

POINTS = "/run/failpoints"


def stop(name: str) -> None:
    """Wait here, with the whole event loop, if there is such a point."""
    point = f"{POINTS}/step-{name}"
    try:
        if not stat.S_ISFIFO(os.stat(point).st_mode):
            return
    except FileNotFoundError:
        return
    with open(f"{point}.new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(f"{point}.new", f"{point}.reached")
    with open(point) as file:
        file.readline()


def install() -> None:
    """Stand before `Phases.step`."""
    from crishim.flow.phases import Phases

    enter = Phases.step

    @contextlib.contextmanager
    def step(self, name, **options):
        with enter(self, name, **options):
            stop(name)
            yield

    Phases.step = step


if sys.argv[-1:] == ["serve"] or "serve" in getattr(sys, "orig_argv", []):
    install()
