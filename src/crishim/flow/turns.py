"""Take turns: so many dumps or restores at a time, the others wait in the order they came.

What runs beside each other shares the disk and the processors, so each dump would freeze its
container for longer. This module knows nothing of containers.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from crishim.errors import DeadlineExceeded, NoSpace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from crishim.flow.phases import Phases

_WAITING_MAX = 1000


class Turns:
    """A bounded number of flows at a time and a bounded queue before them.

    Args: parallel: how many at a time. what: of what, in the plural, for messages.
    """

    def __init__(self, parallel: int, *, what: str = "checkpoints") -> None:
        self._what = what
        self._free = asyncio.Semaphore(parallel)
        self._waiting = 0

    @contextlib.asynccontextmanager
    async def take(self, phases: Phases) -> AsyncIterator[bool]:
        """Wait for a turn and keep it for the block, which is told whether there was a wait.

        Raises: DeadlineExceeded: the call's deadline passed first. NoSpace: too many wait already.
        """
        if waits := self._free.locked():
            with phases.step("waiting"):
                await self._wait(phases)
        else:
            await self._free.acquire()
        try:
            yield waits
        finally:
            self._free.release()

    async def _wait(self, phases: Phases) -> None:
        if self._waiting >= _WAITING_MAX:
            raise NoSpace(f"{self._waiting} {self._what} wait for their turn already")
        self._waiting += 1
        try:
            async with asyncio.timeout(phases.left_s):
                await self._free.acquire()
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"the deadline passed in phase 'waiting', with {self._waiting - 1} others that "
                "wait for their turn"
            ) from error
        finally:
            self._waiting -= 1
