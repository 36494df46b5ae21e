"""The calls under way, shared by everything that serves, so that a stop knows what to wait for.

It knows no method and no service, and nothing of gRPC.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from crishim.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

_log = logging.getLogger(__name__)
STOPPING = "crishim is stopping"


class Calls:
    """The calls under way.

    Three kinds meet a stop differently: ordinary ones get a grace; endless streams are ended at
    once, because they would use up any grace and can be opened again; operations that must finish
    (a dump cannot be broken off) are waited for without limit.
    """

    def __init__(self) -> None:
        self.stopping = False
        self._running = 0
        self._must_finish: list[str] = []
        self._at_stop: set[Callable[[], object]] = set()
        self._afterwards: set[asyncio.Future[None]] = set()
        self._changed = asyncio.Event()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Count one call; raise Unavailable if the daemon is stopping."""
        if self.stopping:
            raise Unavailable(STOPPING)
        self.begin()
        try:
            yield
        finally:
            self.end()

    def begin(self) -> None:
        """Count one call, which `end` must end; `running` for those who can afford it."""
        self._running += 1

    def end(self) -> None:
        """Count a call off."""
        self._running -= 1
        if self.stopping:
            self._changed.set()

    @contextlib.contextmanager
    def must_finish(self, what: str) -> Iterator[None]:
        """Keep the daemon from ending before the block does; `what` tells people why it waits."""
        self._must_finish.append(what)
        try:
            yield
        finally:
            self._must_finish.remove(what)
            self._changed.set()

    def afterwards(self, what: str, work: Coroutine[Any, Any, object]) -> None:
        """Do something once the caller has its answer; a failure of it is only logged."""

        async def run() -> None:
            try:
                with self.must_finish(what):
                    await work
            except Exception as error:  # noqa: BLE001 - nobody is left to tell
                _log.warning("%s: %s", what, error)

        task = asyncio.ensure_future(run())
        self._afterwards.add(task)
        task.add_done_callback(self._afterwards.discard)

    @contextlib.contextmanager
    def ended_by_stop(self, end: Callable[[], object]) -> Iterator[None]:
        """Call `end` if a stop begins inside the block."""
        self._at_stop.add(end)
        try:
            yield
        finally:
            self._at_stop.discard(end)

    def stop(self) -> None:
        """Refuse new calls from now on and end the endless streams. May be called twice."""
        self.stopping = True
        for end in tuple(self._at_stop):
            end()

    @property
    def unfinished(self) -> tuple[str, ...]:
        """What must finish and has not."""
        return tuple(self._must_finish)

    async def until_idle(self) -> None:
        """Wait until no call is under way."""
        await self._until(lambda: self._running == 0)

    async def until_finished(self) -> None:
        """Wait until nothing is left that must finish."""
        await self._until(lambda: not self._must_finish)

    async def _until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            self._changed.clear()
            await self._changed.wait()
