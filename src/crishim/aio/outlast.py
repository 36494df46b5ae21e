"""Wait for work that a cancellation of its caller must not leave behind."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")

_log = logging.getLogger(__name__)


async def outlast(work: asyncio.Future[_T], cancel: Callable[[], object] | None = None) -> _T:
    """Await work; its result or exception is this call's.

    Args: cancel: makes the work end soon; called at most once.
    On cancel: calls `cancel` and waits for the work's end first, however often; its result is lost.
    """
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        if cancel is not None:
            cancel()
        while not work.done():
            try:
                await asyncio.wait([work])
            except asyncio.CancelledError:
                continue
        if not work.cancelled() and (error := work.exception()) is not None:
            _log.debug("failed after its caller had gone", exc_info=error)
        raise
