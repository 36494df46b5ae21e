"""The pause of one dump: its container's cgroup, frozen and thawed again.

What is known of processes that run is old as soon as it is read. So who they are is asked again
when none of them can change any more. This module knows no steps and no archive.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from crishim.aio.lanes import Lane
from crishim.aio.shield import in_thread
from crishim.kernel import cgroup

if TYPE_CHECKING:
    from pathlib import Path

    from crishim.dump.workspace import Workspace

_FREEZE_TIMEOUT_S = 10.0


class Freezer:
    """One container's freezer.

    Attributes:
        directory: its cgroup.
        frozen: it was frozen, or may have been, and not thawed since.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.frozen = False

    async def processes(self) -> list[int]:
        """Return the ids of the container's processes as they are now."""
        return await in_thread(self.read)

    def read(self) -> list[int]:
        """Do the same, from a thread."""
        return cgroup.processes(self.directory)

    async def freeze(self, workspace: Workspace) -> list[int]:
        """Freeze the container; return the ids of its processes, which do not change any more.

        Raises: NotFound, DeadlineExceeded: as `cgroup.freeze`; `thaw` is needed all the same.
        """
        self.frozen = True

        def freeze() -> list[int]:
            workspace.note_freezer(self.directory)
            # Not by `runc pause`: starting it takes longer than the rest of a small pause.
            cgroup.freeze(self.directory, timeout_s=_FREEZE_TIMEOUT_S)
            return self.read()

        return await in_thread(freeze, lane=Lane.PAUSE)

    async def thaw(self) -> None:
        """Let the container go on; may be repeated."""
        if self.frozen:
            await in_thread(cgroup.thaw, self.directory, lane=Lane.PAUSE)
            self.frozen = False

    async def stays_frozen(self) -> bool:
        """Ask the kernel whether nobody else has thawed it; what nobody can tell is frozen."""
        with contextlib.suppress(OSError):
            thawed = await in_thread(cgroup.is_thawed, self.directory, lane=Lane.PAUSE)
            self.frozen = not thawed
        return self.frozen
