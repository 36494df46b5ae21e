"""Act at the N-th moment at which a flow of ours waits: for tests that try every one of them."""

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Generator
from typing import Any

_OURS = "/crishim/"


class Moments:
    """Counts how often our coroutines are suspended, in whichever task, and acts at one of them.

    Install `factory` as the loop's task factory; `arm` before a flow begins.
    """

    def __init__(self) -> None:
        self.count = 0
        self._at = 0
        self._act: Callable[[], object] = lambda: None

    def arm(self, at: int, act: Callable[[], object]) -> None:
        """Count anew, and call `act` once the flow waits for the `at`-th time; 0 for never."""
        self.count, self._at, self._act = 0, at, act

    def factory(self, loop, coro, **named: object) -> asyncio.Task:
        if inspect.iscoroutine(coro) and _OURS in coro.cr_code.co_filename:
            coro = _Watched(coro, self.passed)
        return asyncio.Task(coro, loop=loop, **named)

    def passed(self) -> None:
        self.count += 1
        if self.count == self._at:
            asyncio.get_running_loop().call_soon(self._act)


class _Watched(Coroutine):
    """A coroutine that tells of each time it is suspended."""

    def __init__(self, coro: Coroutine, suspended: Callable[[], None]) -> None:
        self._coro = coro
        self._suspended = suspended

    def send(self, value: Any) -> Any:
        return self._told(self._coro.send(value))

    def throw(self, *error: Any) -> Any:
        return self._told(self._coro.throw(*error))

    def close(self) -> None:
        self._coro.close()

    def __await__(self) -> Generator:
        raise NotImplementedError("tasks only")

    def _told(self, future: Any) -> Any:
        self._suspended()
        return future
