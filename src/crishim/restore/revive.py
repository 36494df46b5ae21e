"""The processes of a restore: containerd starts a prepared container, whose wrapper restores it.

From the moment that its processes may run there are two ways only. Either the restore is over, and
then it goes forward whatever happens; or it failed, or somebody stops the pod, and then not a byte
of it may have got out: its connections wait for another attempt, from the same archive.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from crishim import losses
from crishim._proto.runtime.v1 import api_pb2
from crishim.aio.shield import in_thread
from crishim.container import logs, unkept
from crishim.errors import CrishimError, RuntimeNotFound, RuntimeRefused, ToolFailed
from crishim.ids import ContainerId
from crishim.kernel import files
from crishim.modes import AddressMode
from crishim.restore import plans, putback
from crishim.restore.images import remove_images
from crishim.restore.settle import Unsettled, ended, runs_after_all
from crishim.tools import logs as tool_logs

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from contextlib import AsyncExitStack
    from pathlib import Path

    from crishim.containerd.cri import Cri
    from crishim.flow.locks import Operation
    from crishim.flow.phases import Phases
    from crishim.paths import Paths
    from crishim.restore.restored import Restored
    from crishim.sandbox.arrival import Arrival

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
_LOG = "restore.log"
_OVER = "stats-restore"
"""CRIU writes it as soon as it has let the processes go."""
_BROKEN_OFF = "broken-off"
"""Stands beside it, from the moment that nothing gets out any more until the next attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reviver:
    """Starts containers that wait for their restore; one object serves the daemon."""

    cri: Cri
    paths: Paths
    restored: Restored

    async def run(
        self, container: ContainerId, *, operation: Operation, arrival: Arrival | None
    ) -> list[losses.Loss]:
        """Start a container whose wrapper restores it; it runs, or has, when this returns.

        Args: operation: if it is asked to end while CRIU is at work, the container is ended again
            behind its hold. arrival: of its pod's address; None for a new one.
        Returns: what could not be put back into its processes.
        Raises: ToolFailed: CRIU's last errors; its log is kept.
            Busy: it was broken off, and does not run. Unsettled: nobody knows whether it runs;
            nothing is to be undone.
        """
        operation.refuse_if_asked()
        work = self.paths.restore(container) / "work"
        for name in (_LOG, _OVER, _BROKEN_OFF):
            (work / name).unlink(missing_ok=True)
        began = time.monotonic()
        sealing: list[asyncio.Future[bool]] = []

        def seal() -> None:
            sealing.append(asyncio.ensure_future(self._seal(container, arrival)))

        with operation.told(seal):
            try:
                async with putback.PutBack(self.paths.restore(container)) as back:
                    await self._start(container)
            finally:
                broken_off = any(await asyncio.gather(*sealing))
        if broken_off:
            await ended(container, cri=self.cri)
            operation.refuse_if_asked()
        took_ms = (time.monotonic() - began) * 1000
        _log.info("container %s was restored: it runs after %.0f ms", container[:13], took_ms)
        return back.losses

    async def _seal(self, container: ContainerId, arrival: Arrival | None) -> bool:
        """Let nothing of the pod out any more; return whether nothing had got out before."""
        work = self.paths.restore(container) / "work"
        try:
            if arrival is not None:
                await arrival.seal()
            if files.is_there(work / _OVER):
                return False
        except Exception as error:  # noqa: BLE001 - whatever it is, it goes on then
            _log.warning("the restore of %s cannot be broken off: %s", container[:13], error)
            return False
        try:
            (work / _BROKEN_OFF).touch()
        except OSError as error:  # it matters only where containerd cannot end the container
            _log.warning("the end of %s's restore is not on record: %s", container[:13], error)
        return True

    async def _start(self, container: ContainerId) -> None:
        """Have the container started.

        If containerd dies meanwhile, its shim goes on: what became of it is waited for. Whether it
        still runs after a good start is not asked: an end of its own is no failure to restore.
        """
        directory = self.paths.restore(container)
        log = directory / "work" / _LOG
        try:
            await self.cri.start_container(container)
        except RuntimeRefused as error:
            if await runs_after_all(container, directory, cri=self.cri):
                return
            if not log.exists():
                raise
            raise await in_thread(self._failed, container, log, error) from error

    def _failed(self, container: ContainerId, log: Path, error: RuntimeRefused) -> ToolFailed:
        """Return the error of a restore that left a log: final if CRIU itself says why."""
        folder = self.paths.logs / f"restore-{container[:13]}"
        logs.save_logs(log.parent, folder)
        said = tool_logs.criu_errors(log)
        failed = ToolFailed(
            "runc restore",
            1,
            details=said or error.details,
            log_path=str(folder / log.name),
        )
        failed.final = tool_logs.is_lasting(log)
        return failed

    async def has_arrived(self, directory: Path) -> bool:
        """Return whether a container was restored and runs, with its address if it keeps one.

        Nobody works on its restore any more, which is finished then. One that was broken off never
        goes forward: its container is ended.
        Raises: Unsettled, RuntimeRefused, OSError: nobody knows.
            Corrupt: its plan is damaged.
        """
        plan = await in_thread(plans.read, directory)
        container = ContainerId(directory.name)
        try:
            found = await self.cri.container(container)
        except RuntimeNotFound:
            return False
        if await self.ended_if_broken_off(container):
            return False
        if found.status.state == api_pb2.CONTAINER_UNKNOWN:
            raise Unsettled(f"containerd does not know whether container {container[:13]} runs")
        if plan is not None and found.running:
            # It was restored, and its end could not be written.
            await self.finish(container)
        return found.running and (plan is None or plan.address == AddressMode.KEEP)

    async def ended_if_broken_off(self, container: ContainerId) -> bool:
        """Return whether a restore was broken off before anything had got out; it has ended then.

        Raises: Unsettled: its container may run still. OSError: nobody can tell.
        """
        if not files.is_there(self.paths.restore(container) / "work" / _BROKEN_OFF):
            return False
        await ended(container, cri=self.cri)
        return True

    async def go_forward(
        self, container: ContainerId, arrival: Arrival | None, *, phases: Phases
    ) -> None:
        """Let a restored pod's connections go on, and take its checkpoint as used up."""
        try:
            if arrival is not None:
                with phases.step("release", deadline=False):
                    await arrival.release()
        finally:
            with phases.step("finish", deadline=False):
                await self.finish(container)
                await self._tell(container, phases)

    async def _tell(self, container: ContainerId, phases: Phases) -> None:
        """Say what is not as it was, after a restore that went well."""
        log = self.paths.restore(container) / "work" / _LOG
        phases.lose(await in_thread(unkept.by_criu, log))
        losses.log(phases.losses, subject=f"restore of {container[:13]}")

    async def finish(self, container: ContainerId) -> None:
        """Take a checkpoint as used up; its container runs, so a failure here is only logged.

        Its pod's mark says already that it was about to be restored.
        """
        directory = self.paths.restore(container)

        def mark() -> None:
            plan = plans.read(directory)
            if plan is not None and plan.once:
                self.restored.mark(pod_uid=plan.pod_uid, container=plan.container_name)

        def tell_late() -> None:
            losses.log(putback.late(directory), subject=f"restore of {container[:13]}")

        for step, what in (
            (mark, "its mark"),
            (tell_late, "what it lacks is not known"),
            (lambda: plans.finish(directory), "its plan"),
            (lambda: remove_images(directory / "images"), "its images"),
        ):
            try:
                await in_thread(step)
            except (CrishimError, OSError) as error:
                _log.error("container %s runs, but %s: %s", container[:13], what, error)


async def kept_if_unsettled(
    run: Awaitable[_T], undo: AsyncExitStack, arrival: Arrival | None
) -> _T:
    """Await a restore; undo nothing where nobody knows whether its processes run."""
    try:
        return await run
    except Unsettled:
        undo.pop_all()
        if arrival is not None:
            await arrival.leave()
        raise
