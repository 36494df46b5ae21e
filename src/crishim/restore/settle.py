"""Wait until a restore that somebody left in the middle has come to an end, good or bad.

containerd's shim outlives containerd, and runc outlives the shim. A containerd that starts again
keeps a task that runs and ends one that is half done; one whose caller has gone does the same, but
for 2.0 to 2.3, which leave its processes alone, and for the moment in which it has just made the
task, when it forgets it (`halfrestored` ends them).
Until then the pod's address and hold must stay as they are: sockets may come alive any moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from typing import TYPE_CHECKING

from crishim._proto.runtime.v1 import api_pb2
from crishim.aio.shield import in_thread
from crishim.errors import RuntimeNotFound, RuntimeRefused, Unavailable
from crishim.tools import criu
from crishim.tools.stillatwork import tools_ended

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from crishim.containerd.cri import Cri
    from crishim.ids import ContainerId

_log = logging.getLogger(__name__)
_POLL_S = 0.02
_END_AGAIN_S = 0.5
_TAKING_BACK_S = 0.5
"""From the end of `runc restore` until containerd has ended what nobody waits for any more."""
_RUNTIME_BACK_S = 30.0
_MAY_RUN = (api_pb2.CONTAINER_RUNNING, api_pb2.CONTAINER_UNKNOWN)


class Unsettled(Unavailable):
    """It is not known whether a restored container runs: nothing may be undone, nor finished."""


async def settled(directory: Path, *, wait_s: float = math.inf, worked: bool = False) -> None:
    """Wait for a restore under way, which containerd takes back where its caller has gone.

    What a CRIU that was killed has left on the node is cleared away too.
    Args: directory: of the container that is being restored. wait_s: as `tools_ended`.
        worked: whether an earlier call has found somebody at work.
    Raises: StillAtWork: as `tools_ended`.
    """
    if await tools_ended(directory, wait_s=wait_s) or worked:
        await asyncio.sleep(_TAKING_BACK_S)
    await clear_mounts()


async def clear_mounts() -> None:
    """Unmount what a CRIU that was killed in a restore has left on the node."""
    for path in await in_thread(criu.sweep_yards):
        _log.warning("unmounted %s, which a CRIU that was killed has left", path)


async def runs_after_all(container: ContainerId, directory: Path, *, cri: Cri) -> bool:
    """Return whether a container runs although its start has failed: containerd may have died.

    That there is no such container is an answer too.
    Raises: Unsettled: containerd is not back within half a minute.
    """
    async with _known_in_time(container):
        if await _runs(container, cri) is None:
            return False
        await settled(directory)
        return bool(await _runs(container, cri))


async def ended(container: ContainerId, *, cri: Cri) -> None:
    """End a container that has come to life behind its hold; none of its processes is left then.

    A containerd that cannot reach a shim calls its container unknown: it is asked again to end it.
    Raises: Unsettled: containerd has not ended it within half a minute.
    """
    told = False
    async with _known_in_time(container):
        while True:
            try:
                await cri.end_container(container)
            except RuntimeRefused as error:
                if not told:
                    _log.warning("container %s cannot be ended yet: %s", container, error.details)
                told = True
            if await _state(container, cri) not in _MAY_RUN:
                return
            await asyncio.sleep(_END_AGAIN_S)


@contextlib.asynccontextmanager
async def _known_in_time(container: ContainerId) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(_RUNTIME_BACK_S):
            yield
    except TimeoutError:
        raise Unsettled(
            f"containerd died in the restore of container {container[:13]}: nobody knows yet "
            "whether that runs",
            hint="everything stays as it is until containerd is back",
        ) from None


async def _runs(container: ContainerId, cri: Cri) -> bool | None:
    """Return whether a container runs, once containerd tells; None if there is no such one."""
    while True:
        state = await _state(container, cri)
        if state != api_pb2.CONTAINER_UNKNOWN:
            return None if state is None else state == api_pb2.CONTAINER_RUNNING
        await asyncio.sleep(_POLL_S)  # containerd starts again


async def _state(container: ContainerId, cri: Cri) -> int | None:
    """Return a container's state, which is unknown where containerd does not answer, or says so.

    None if there is no such container.
    """
    try:
        return (await cri.container(container)).status.state
    except RuntimeNotFound:
        return None
    except RuntimeRefused:
        return api_pb2.CONTAINER_UNKNOWN
