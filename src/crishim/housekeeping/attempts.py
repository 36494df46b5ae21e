"""Pieces of work of which each is on its own: one that fails costs the others nothing.

What failed is said once, and can be tried again. This module must never know what the pieces are.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from crishim.aio.shield import to_the_end

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from typing import Any

_log = logging.getLogger(__name__)


class Attempts:
    """What was tried, by its name in the log, and what of it has failed."""

    def __init__(self) -> None:
        self._failing: set[str] = set()
        self._told: set[str] = set()
        self._again: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {}

    @property
    def failing(self) -> bool:
        """Whether something has failed in this round and not succeeded since."""
        return bool(self._failing)

    async def attempt(self, work: Awaitable[object], what: str) -> bool:
        """Do one piece of work; return whether it succeeded, having said once why it did not."""
        try:
            await work
        except Exception as error:  # noqa: BLE001 - one piece must not cost the others
            if what not in self._told:
                _log.exception("recovery: %s", what)
            else:
                _log.debug("recovery: %s: %s", what, error)
            self._failing.add(what)
            self._told.add(what)
            return False
        self._failing.discard(what)
        self._told.discard(what)
        return True

    async def until_done(self, work: Callable[[], Coroutine[Any, Any, object]], what: str) -> None:
        """Do one piece of work to its end, and have `again` do it once more if it fails."""
        if await self.attempt(to_the_end(work()), what):
            self._again.pop(what, None)
        else:
            self._again[what] = work

    def new_round(self) -> None:
        """Begin to count anew what fails."""
        self._failing.clear()

    async def again(self) -> None:
        """Try what `until_done` could not do."""
        pieces = tuple(self._again.items())
        await asyncio.gather(*(self.until_done(work, what) for what, work in pieces))
