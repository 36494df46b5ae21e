"""CRIU writes a frozen container's memory into a page sink; layer and log end beside it.

What is done here is done in the pause: everything that does not need frozen processes, or that can
wait until they run again, is elsewhere.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crishim.aio.lanes import Lane
from crishim.aio.shield import in_thread
from crishim.container import logs
from crishim.dump import remaps
from crishim.tools import runc as runcs

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from crishim.aio.undo import Undo
    from crishim.dump.freeze import Frozen
    from crishim.dump.sink import PageSink


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What the memory step has left for the rest of the archive.

    Attributes:
        page_bytes: what the sink has received.
        log: None where the container has no log.
    """

    page_bytes: int
    log: logs.Logged | None


async def write_memory(
    frozen: Frozen,
    sink: PageSink,
    undo: Undo,
    *,
    beside: Coroutine[Any, Any, None] | None = None,
) -> Written:
    """Write everything that must belong to the same moment.

    Args: undo: closes the files that wait to be packed. beside: runs at the same time; its error is
        this call's.
    Raises: ToolFailed: CRIU's last errors. NoSpace, Unsupported, Precondition.
    On cancel: CRIU, and what is done beside it, is waited for.
    """
    prepared = frozen.prepared
    parts = prepared.parts
    log = asyncio.ensure_future(_log(frozen, undo))
    aside: list[asyncio.Future[Any]] = [
        log,
        asyncio.ensure_future(_files(frozen, undo)),
        asyncio.ensure_future(parts.gatherer.in_pause(frozen.pids)),
    ]
    if beside is not None:
        aside.append(asyncio.ensure_future(beside))
    try:
        page_bytes = await _criu(frozen, sink)
        for work in aside:
            await work
        if prepared.remaps:
            links = await in_thread(remaps.listed, parts.workspace, lane=Lane.PAUSE)
            await prepared.files.add_links(links)
            await parts.shared_memory.add_links(links)
    except BaseException:
        prepared.files.cancel()
        # None is left behind: they write into files that the undo is about to close.
        await asyncio.gather(*aside, return_exceptions=True)
        raise
    return Written(page_bytes=page_bytes, log=log.result())


async def _criu(frozen: Frozen, sink: PageSink) -> int:
    prepared, parts = frozen.prepared, frozen.prepared.parts
    facts, workspace = prepared.tools.runc, parts.workspace
    options = runcs.CheckpointOptions(
        images=workspace.images,
        work=workspace.path,
        criu_config=workspace.criu_config,
        kept_logs=workspace.kept_logs,
        leave_running=True,
        cgroups_mode=facts.cgroups_mode,
        tcp_established=parts.request.tcp == "established",
        link_remap=facts.link_remap,
        pages=sink.runc_args,
    )
    receiver = sink.receiver(options.images, processes=len(frozen.pids))
    advancing = parts.phases.advancing(
        "memory", lambda: receiver.received_bytes, total_bytes=prepared.expected_bytes
    )
    async with advancing, receiver:
        await runcs.checkpoint(parts.source.runc, parts.source.container.id, options)
        return await receiver.finish()


async def _files(frozen: Frozen, undo: Undo) -> None:
    prepared, parts = frozen.prepared, frozen.prepared.parts
    await parts.shared_memory.copy(parts.workspace, undo)
    await prepared.files.last_pass(parts.workspace, undo)
    if not prepared.remaps:
        await in_thread(remaps.late, frozen.pids, lane=Lane.PAUSE)


async def _log(frozen: Frozen, undo: Undo) -> logs.Logged | None:
    source = frozen.prepared.parts.source
    if source.log is None:
        return None
    return await logs.settled(source.log, pid=source.container.pid, undo=undo)
