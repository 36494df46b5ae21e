"""Look at a disk that may never answer, and go on without its answer.

A dead NFS server lets whoever asks it hang, and such a thread cannot be ended. So a look of this
kind has a thread that nobody waits for beyond a time, not even the end of the process. What such a
thread does must be harmless whenever it happens: above all, reading.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")
PATIENCE_S = 10.0


async def look(function: Callable[[], _T]) -> _T:
    """Return what a function finds out about files; the thread may outlive the call.

    Raises: TimeoutError: no answer within `PATIENCE_S`. Whatever else the function raises.
    """
    async with asyncio.timeout(PATIENCE_S):
        return await begin(function)


async def wait(answer: asyncio.Future[_T]) -> _T:
    """Return what `begin` has found out; where it has not yet, a later call waits for it again.

    Raises: as `look`.
    """
    async with asyncio.timeout(PATIENCE_S):
        return await asyncio.shield(answer)


def begin(function: Callable[[], _T]) -> asyncio.Future[_T]:
    """Begin to find out something about files whose answer must not be lost; see `wait`."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        result, failure = None, None
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=work, name="patience", daemon=True).start()
    return answer
