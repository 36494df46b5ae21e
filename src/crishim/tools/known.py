"""Remember what a program said of itself, for as long as its file stays the same one.

Asking runc and CRIU for their versions costs some 40 ms, on every dump and restore; an upgrade
replaces the file and is noticed. This module must never know what was asked.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Generic, TypeVar

from crishim.kernel import process

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


class Known(Generic[T]):
    """Answers by program; failures are not remembered."""

    def __init__(self) -> None:
        self._answers: dict[str, tuple[tuple[int, ...], T]] = {}

    async def get(self, program: str, ask: Callable[[], Awaitable[T]]) -> T:
        """Return the remembered answer of a program, or ask for it; raises what `ask` raises."""
        mark = _mark(program)
        known = self._answers.get(program)
        if known is not None and known[0] == mark:
            return known[1]
        answer = await ask()
        self._answers[program] = (mark, answer)
        return answer


def _mark(program: str) -> tuple[int, ...]:
    """Tell one file from its successor; a program that is missing has a mark of its own."""
    try:
        status = os.stat(shutil.which(program, path=process.PATH) or program)
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
