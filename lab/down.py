"""Take a lab away, whole or half-made, so that nothing of it stays on the machine."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from lab.host import cgroups
from lab.host.network import delete_lab
from lab.host.remove import remove_tree
from lab.run import run

if TYPE_CHECKING:
    from lab.settings import Settings


def take_down(settings: Settings) -> None:
    """Remove every process, cgroup, namespace, mount and file of the lab.

    What to end is found by the lab's cgroup and namespace, not by records: a lab whose `up` was
    killed half-way goes just as well.
    Raises: LabError: something does not go.
    """
    settings.options_file.unlink(missing_ok=True)
    cgroups.kill_members(settings.cgroup)
    _end_lab_processes(settings.netns)
    delete_lab(settings.netns)
    cgroups.remove(settings.cgroup)
    remove_tree(settings.state)


def _end_lab_processes(netns: str) -> None:
    """End what was started with `net` and still runs."""
    if not Path("/run/netns", netns).exists():
        return
    for pid in run(["ip", "netns", "pids", netns]).split():
        if int(pid) != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
