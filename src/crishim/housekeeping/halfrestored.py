"""What a restore that was broken off has left in containerd: processes, and a task.

containerd ends a start whose caller has gone, but not all of it, and not in every version. What CRI
does not know as running is ended here, and what is in the way of its removal removed. This module
must never know addresses and connections, nor when it is called.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crishim._proto.runtime.v1 import api_pb2
from crishim.aio.shield import in_thread
from crishim.errors import RuntimeNotFound
from crishim.ids import ContainerId
from crishim.restore import plans
from crishim.tools import runc as runcs

if TYPE_CHECKING:
    from pathlib import Path

    from crishim.container.resolve import Resolver
    from crishim.containerd.cri import Cri
    from crishim.containerd.records import Records
    from crishim.flow.locks import Locks
    from crishim.ids import SandboxId

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfRestored:
    """Puts in order what is left of restores; each is told by its directory."""

    cri: Cri
    records: Records
    resolver: Resolver
    locks: Locks

    async def end(self, directory: Path) -> None:
        """End what a restore has brought to life and containerd's CRI does not know as running.

        containerd 2.0 to 2.3 gives a task up whose caller has gone, and its processes go on: a
        second live copy, once the archive is restored elsewhere. Where containerd is still waiting
        for them to end, it can clear up after them now; `delete_task` does where it has forgotten.
        Raises: ToolFailed, RuntimeRefused, OSError: they may live on.
        """
        if not await self._broken_off(directory):
            return
        container = ContainerId(directory.name)
        runc = await self.resolver.runc(container)
        if await in_thread(os.path.lexists, runc.root / container):
            await runcs.end(runc, container)
            _log.warning("container %s: ended what a broken restore has left of it", container[:13])

    async def delete_task(self, sandbox: SandboxId, directory: Path) -> None:
        """Delete the task of what `end` has ended, if containerd still has one.

        A caller that goes right after containerd has made a task has CRI forget it ("failed to get
        task pid", seen on 2.4): the container and its pod could never be removed ("cannot delete
        running task").
        Raises: Busy: somebody does something with the container. RuntimeRefused: containerd does
            not delete it. Either may be tried again.
        """
        container = ContainerId(directory.name)
        with self.locks.hold(container, "clean-up", sandbox=sandbox):
            if await self._broken_off(directory) and await self.records.delete_task(container):
                _log.warning("container %s: deleted the task that was left", container[:13])

    async def _broken_off(self, directory: Path) -> bool:
        """Return whether a restore has not come to its end, and CRI says that nothing runs."""
        if await in_thread(plans.read, directory) is None:
            return False
        try:
            found = await self.cri.container(directory.name)
        except RuntimeNotFound:
            return False
        return found.status.state in (api_pb2.CONTAINER_CREATED, api_pb2.CONTAINER_EXITED)
