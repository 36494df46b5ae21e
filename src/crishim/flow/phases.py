"""Name the steps of a flow, time them, gather what it loses, and tell whoever listens.

A flow enters each of its steps through `Phases.step`; what comes out are the progress events of a
call, the timeline in the statistics, and the place where the caller's deadline is looked at:
between steps, never inside one, because a running CRIU must not be killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from crishim.errors import DeadlineExceeded
from crishim.losses import Loss, bounded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

_log = logging.getLogger(__name__)
_ADVANCE_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseTime:
    """One finished step: its name, when it began after the call did, how long it took."""

    name: str
    begun_us: int
    duration_us: int


@dataclass(slots=True, kw_only=True)
class Phases:
    """The steps of one call.

    Args:
        timeout_s: deadline of the whole call; None for none.
        listener: called with the name of each step as it begins, the microseconds since the call
            began, 0 and 0; and again while a long step goes on, with the bytes that it has handled
            and will handle, as far as that is known; must not block.
    """

    timeout_s: float | None = None
    listener: Callable[[str, int, int, int], None] | None = None
    done: list[PhaseTime] = field(default_factory=list)
    _losses: list[Loss] = field(default_factory=list)
    _begun: float = field(default_factory=time.monotonic)

    @property
    def elapsed_us(self) -> int:
        """Microseconds since the call began."""
        return int((time.monotonic() - self._begun) * 1e6)

    @property
    def left_s(self) -> float | None:
        """Seconds until the call's deadline; None without one."""
        return None if self.timeout_s is None else self.timeout_s - self.elapsed_us / 1e6

    @contextlib.contextmanager
    def step(self, name: str, *, deadline: bool = True) -> Iterator[None]:
        """Run the block as the step `name`.

        Args: deadline: look at the call's deadline first; False where the only way is forward.
        Raises: DeadlineExceeded: the deadline passed before this step.
        """
        begun_us = self.elapsed_us
        if deadline and self.timeout_s is not None and begun_us > self.timeout_s * 1e6:
            last = self.done[-1].name if self.done else "start"
            raise DeadlineExceeded(f"the deadline passed in phase {last!r}, before {name!r}")
        if self.listener is not None:
            self.listener(name, begun_us, 0, 0)
        try:
            yield
        finally:
            duration_us = self.elapsed_us - begun_us
            self.done.append(PhaseTime(name=name, begun_us=begun_us, duration_us=duration_us))
            _log.debug("phase %s took %d us", name, duration_us)

    @property
    def losses(self) -> tuple[Loss, ...]:
        """What is not kept, as far as the flow has found out; each thing once."""
        return bounded(self._losses)

    def lose(self, found: Iterable[Loss]) -> None:
        """Take in what the flow has found that it does not keep; it goes on all the same."""
        self._losses += found

    @contextlib.asynccontextmanager
    async def advancing(
        self, name: str, done_bytes: Callable[[], int], *, total_bytes: int = 0
    ) -> AsyncIterator[None]:
        """Tell the listener now and then, in the block, how far the step `name` has come.

        Args: done_bytes: must not block. total_bytes: 0 if nobody knows.
        """

        async def tell(listener: Callable[[str, int, int, int], None]) -> None:
            while True:
                await asyncio.sleep(_ADVANCE_S)
                listener(name, self.elapsed_us, done_bytes(), total_bytes)

        telling = None if self.listener is None else asyncio.ensure_future(tell(self.listener))
        try:
            yield
        finally:
            if telling is not None:
                telling.cancel()

    def until_us(self, first: str, last: str) -> int:
        """Return the time from the begin of step `first` to the end of step `last`."""
        steps = {phase.name: phase for phase in self.done}
        return steps[last].begun_us + steps[last].duration_us - steps[first].begun_us
