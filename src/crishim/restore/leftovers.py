"""What stands beside a container from its preparation until it is gone, and what becomes of it.

    undo_preparation  a preparation has failed; nothing waits any more
    waits             a checkpoint is to be restored at the next start
    settle            did a restore succeed that nobody could write the end of?
    pod_leaves        the same for all of a sandbox that goes
    removed           the container is gone; so is what stood beside it
    sweep             the same for whatever was missed

Nothing is taken back here that may run: positive evidence only, and where nobody knows it stays.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crishim._proto.runtime.v1 import api_pb2
from crishim.aio.lanes import Lane
from crishim.aio.shield import in_thread, to_the_end
from crishim.errors import Busy, CrishimError, Precondition, RuntimeNotFound, RuntimeRefused
from crishim.ids import ContainerId, SandboxId, by_prefix
from crishim.kernel import atomic, files, tree
from crishim.restore import exchange, plans
from crishim.restore.images import remove_images
from crishim.restore.settle import Unsettled, settled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from crishim.restore.context import RestoreContext
    from crishim.restore.preparations import Preparations

_log = logging.getLogger(__name__)
_LEAVING_S = 30.0
"""How long the stop of a pod waits for a CRIU that containerd has left at work in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftovers:
    """Keeps account of the directories of restores; one object serves the daemon."""

    context: RestoreContext
    preparations: Preparations

    def undo_preparation(
        self, container: ContainerId
    ) -> Callable[[type[BaseException] | None, object, object], Awaitable[None]]:
        """Return what an exit stack calls: after a failure it undoes a preparation."""

        async def undo(kind: type[BaseException] | None, *_: object) -> None:
            if kind is not None:
                await to_the_end(self._undo_preparation(container))

        return undo

    async def _undo_preparation(self, container: ContainerId) -> None:
        """Leave nothing that could be restored; what cannot be put back now stays for `sweep`."""
        directory = self.context.paths.restore(container)
        try:
            if directory.exists():
                await in_thread(plans.finish, directory)
                await exchange.recover(directory, records=self.context.records)
                await self.removed(container)
        except Exception:  # noqa: BLE001 - the caller is told of the failure that it is undone for
            _log.exception("what was prepared for container %s stays", container[:13])

    def waits(self, container: str) -> ContainerId | None:
        """Return the full id of a container whose start is to be a restore; None otherwise."""
        directory = self._directory_of(container)
        if directory is None or plans.read(directory) is None:
            return None
        return ContainerId(directory.name)

    async def settle(self, container: ContainerId, *, pod_uid: str, name: str) -> bool:
        """Find out whether a restore succeeded that nobody could write the end of.

        One that was broken off did not, although its processes have run behind their hold.
        Args: container: in which it was. pod_uid, name: of the pod and container that ask.
        Raises: Busy, Unavailable: it goes on, or may. Precondition: nobody knows.
        """
        if self.context.locks.busy(container):
            raise Busy(f"a restore of container {container[:13]} is under way")
        try:
            await settled(self.context.paths.restore(container), wait_s=0)
            status = (await self.context.cri.container(container)).status
        except RuntimeNotFound:
            raise Precondition(
                f"container {name} was being restored when crishim ended, and it is not known "
                "whether it has run since: it is neither restored again nor started cold",
                hint="delete the pod, and make a new one that names the checkpoint",
            ) from None
        if status.state == api_pb2.CONTAINER_UNKNOWN:
            raise Unsettled(f"containerd does not know whether container {container[:13]} runs")
        broken_off = await self.context.reviver.ended_if_broken_off(container)
        ran = bool(status.started_at) and not broken_off
        write = self.context.restored.mark if ran else self.context.restored.turn_back
        await in_thread(lambda: write(pod_uid=pod_uid, container=name))
        return ran

    async def pod_leaves(self, named: str) -> None:
        """Settle what a restore has left in a pod that its caller owns and whose sandbox goes.

        Raises: Unavailable, Corrupt, RuntimeRefused: nobody knows whether its processes run;
            their address stays behind its hold.
        """
        sandbox = SandboxId(named)
        if not self.context.addresses.in_doubt(sandbox):
            return
        arrived = False
        for item in await self.context.cri.containers(sandbox):
            directory = self.context.paths.restore(ContainerId(item.id))
            if files.is_there(directory):
                await settled(directory, wait_s=_LEAVING_S)
                arrived = await self.context.reviver.has_arrived(directory) or arrived
        await self.context.addresses.recover(sandbox, arrived=arrived)

    async def sweep(self) -> None:
        """Clear up after containers and pods that are gone, whoever removed them."""
        directories = files.entries(self.context.paths.restores)
        left = {item.id for item in await self.context.cri.containers()}
        for path in directories:
            if path.name not in left and not self.context.locks.busy(path.name):
                try:
                    await self._sweep(path)
                except (CrishimError, OSError, RuntimeRefused) as error:
                    # One that cannot be cleared up must not keep the others.
                    _log.warning("%s stays: %s", path, error)
        await self.preparations.sweep()
        uids = {item.metadata.uid for item in await self.context.cri.sandboxes()}
        await in_thread(self.context.restored.sweep, uids)

    async def _sweep(self, directory: Path) -> None:
        """Clear up after a container that CRI does not know, unless containerd has its record.

        One whose record an exchange left missing comes back when containerd starts again.
        """
        await exchange.recover(directory, records=self.context.records)
        if not await self.context.records.exists(ContainerId(directory.name)):
            await self.removed(directory.name)

    async def removed(self, container: str) -> None:
        """Clear up after a container that is gone; nothing to do for others."""
        directory = self._directory_of(container)
        if directory is not None:
            await in_thread(plans.finish, directory, lane=Lane.PAUSE)
            await in_thread(remove_images, directory / "images", lane=Lane.PAUSE)
            await in_thread(tree.remove_tree, directory, lane=Lane.PAUSE)

    def _directory_of(self, container: str) -> Path | None:
        """Return the directory of a container by its id or the first digits; None without one.

        Raises: Precondition: nobody can tell.
        """
        with atomic.storage_errors("cannot tell whether a restore waits"):
            there = files.entries(self.context.paths.restores)
        found = by_prefix(container, (path.name for path in there))
        return None if found is None else self.context.paths.restores / found
