"""Run a flow whose undo must run too, and blocking work, whatever becomes of the caller."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from typing import TYPE_CHECKING, TypeVar

from crishim.aio.lanes import Lane, threads
from crishim.aio.outlast import outlast

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable, Coroutine
    from typing import Any

T = TypeVar("T")


async def unbroken(flow: Coroutine[Any, Any, T]) -> T:
    """Await a flow; a cancellation reaches it once and is then waited for to the end of its undo.

    Without this a second cancellation (a caller's deadline after a caller's disconnect) would break
    into the undo and leave a container frozen.
    """
    task = asyncio.ensure_future(flow)
    return await outlast(task, task.cancel)


async def to_the_end(flow: Coroutine[Any, Any, T]) -> T:
    """Await a flow that no cancellation may reach; the caller's goes on after the flow's end."""
    return await outlast(asyncio.ensure_future(flow))


async def in_thread(
    function: Callable[..., T],
    *args: object,
    cancel: Callable[[], None] | None = None,
    lane: Lane = Lane.ORDINARY,
) -> T:
    """Run a blocking function in a thread and never leave it behind.

    `asyncio.to_thread` lets the caller go on when it is cancelled, while the thread still writes
    to files that the caller's undo is about to close; and all of its work shares one pool.

    Args: cancel: makes the function end soon; called at most once, from the event loop.
        lane: see `Lane`.
    On cancel: waits for the function's end first, however often; what it returns is lost, so what
        makes something is run by `made_in_thread`.
    """
    return await outlast(_begin(function, *args, lane=lane), cancel)


async def made_in_thread(
    undo: contextlib.AsyncExitStack,
    make: Callable[[], T],
    unmake: Callable[[T], object],
    *,
    lane: Lane = Lane.ORDINARY,
) -> T:
    """Make something in a thread whose end `undo` takes care of, also if the caller is cancelled.

    Args: unmake: given what was made; blocks, and runs in a thread of its own lane.
    On cancel: what the thread made all the same is `undo`'s.
    """
    work = _begin(make, lane=lane)
    try:
        return await outlast(work)
    finally:
        if not work.cancelled() and work.exception() is None:
            undo.push_async_callback(in_thread, unmake, work.result(), lane=Lane.PAUSE)


def _begin(function: Callable[..., T], *args: object, lane: Lane) -> asyncio.Future[T]:
    """Hand a call to a lane's threads, with the caller's context (log lines name the call)."""
    call = functools.partial(contextvars.copy_context().run, function, *args)
    return asyncio.get_running_loop().run_in_executor(threads(lane), call)
