"""Wait until a restore that somebody left in the middle has come to an end, good or bad.

containerd's shim outlives containerd, and runc outlives the shim. A containerd that starts again
keeps a task that runs and ends one that is half done; one whose caller has gone does the same.
Until then the pod's address and hold must stay as they are: sockets may come alive any moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

import grpc

from crishim.checkpoint import guardian
from crishim.checkpoint.flow import in_thread
from crishim.tools import criu

if TYPE_CHECKING:
    from pathlib import Path

    from crishim.containerd.cri import Cri
    from crishim.ids import ContainerId

_log = logging.getLogger(__name__)
_POLL_S = 0.02
_TAKING_BACK_S = 0.5
"""From the end of `runc restore` until containerd has ended what nobody waits for any more."""
_RUNTIME_BACK_S = 30.0


async def settled(directory: Path) -> None:
    """Wait for a restore under way, which containerd takes back where its caller has gone.

    What a CRIU that was killed has left on the node is cleared away too.
    Args: directory: of the container that is being restored.
    """
    if await in_thread(guardian.tool_runs, directory):
        while await in_thread(guardian.tool_runs, directory):  # noqa: ASYNC110 - not our child
            await asyncio.sleep(_POLL_S)
        await asyncio.sleep(_TAKING_BACK_S)
    await clear_mounts()


async def clear_mounts() -> None:
    """Unmount what a CRIU that was killed in a restore has left on the node."""
    for path in await in_thread(criu.sweep_yards):
        _log.warning("unmounted %s, which a CRIU that was killed has left", path)


async def runs_after_all(container: ContainerId, directory: Path, *, cri: Cri) -> bool:
    """Return whether a container runs although its start has failed: containerd may have died.

    It waits for containerd to be back, half a minute at most; without it, the answer is False.
    """
    with contextlib.suppress(TimeoutError, grpc.aio.AioRpcError):
        async with asyncio.timeout(_RUNTIME_BACK_S):
            while not await _answers(container, cri):  # noqa: ASYNC110 - another daemon's start
                await asyncio.sleep(_POLL_S)
            await settled(directory)
            return (await cri.container(container)).running
    return False


async def _answers(container: ContainerId, cri: Cri) -> bool:
    with contextlib.suppress(grpc.aio.AioRpcError):
        await cri.container(container)
        return True
    return False
