"""Run a flow whose undo must run too, whatever becomes of its caller."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

T = TypeVar("T")


async def unbroken(flow: Coroutine[Any, Any, T]) -> T:
    """Await a flow; a cancellation reaches it once and is then waited for to the end of its undo.

    Without this a second cancellation (a caller's deadline after a caller's disconnect) would break
    into the undo and leave a container frozen.
    """
    task = asyncio.ensure_future(flow)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                continue
        if not task.cancelled():
            task.exception()  # it may have failed or finished on the way: nobody is left to tell
        raise


async def to_the_end(flow: Coroutine[Any, Any, T]) -> T:
    """Await a flow that no cancellation may reach; the caller's goes on after the flow's end."""
    task = asyncio.ensure_future(flow)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                continue
        if not task.cancelled():
            task.exception()
        raise


async def in_thread(
    function: Callable[..., T], *args: object, cancel: Callable[[], None] | None = None
) -> T:
    """Run a blocking function in a thread and never leave it behind.

    `asyncio.to_thread` lets the caller go on when it is cancelled, while the thread still writes
    to files that the caller's undo is about to close.

    Args: cancel: makes the function end soon; called at most once, from the event loop.
    On cancel: waits for the function's end first.
    """
    work = asyncio.ensure_future(asyncio.to_thread(function, *args))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        if cancel is not None:
            cancel()
        await asyncio.wait([work])
        raise
