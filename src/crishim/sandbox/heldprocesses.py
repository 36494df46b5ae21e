"""The processes of a stopped container: do they run, end them, let them go on. All of it blocks."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from crishim.errors import NotFound
from crishim.kernel import cgroup
from crishim.tools import runc as runcs

if TYPE_CHECKING:
    from crishim.sandbox.heldrecord import HeldContainer


def run(container: HeldContainer) -> bool:
    """Return whether they run; False where they are frozen or gone.

    Raises: Corrupt, OSError: nobody knows; as do `thaw` and `kill`, which have done nothing then.
    """
    with contextlib.suppress(NotFound, FileNotFoundError):
        freezer = runcs.cgroup_of(container.runc, container.id)
        return not cgroup.is_frozen(freezer) and bool(cgroup.processes(freezer))
    return False


def thaw(container: HeldContainer) -> None:
    """Let them go on; nothing to do where runc knows them not."""
    with contextlib.suppress(NotFound):
        cgroup.thaw(runcs.cgroup_of(container.runc, container.id))


def kill(container: HeldContainer) -> None:
    """End frozen ones: killed first, thawed then; nothing to do where runc knows them not."""
    with contextlib.suppress(NotFound):
        freezer = runcs.cgroup_of(container.runc, container.id)
        cgroup.kill(freezer)
        cgroup.thaw(freezer)
