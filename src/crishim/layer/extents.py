"""Where the parts of a file lie that are written, as two numbers a part and no more.

A sparse file may have a part for every few pages, so a tuple for each would cost a daemon that must
not be killed more memory than the file has content. This module knows neither files nor formats.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

EXTENTS_MAX = 1 << 20
"""More parts than that are joined over the smallest gaps between them."""


class Extents:
    """Parts of a file in ascending order, as (offset, length); neighbours are one.

    Args: limit: how many there may be. With more, what lies between some becomes part of them.
    """

    __slots__ = ("_limit", "_numbers")

    def __init__(self, parts: Iterable[tuple[int, int]] = (), *, limit: int = EXTENTS_MAX) -> None:
        self._numbers = array("q")
        self._limit = limit
        for offset, length in parts:
            self.add(offset, length)
        self.finish()

    def add(self, offset: int, length: int) -> None:
        """Add a part behind all others; call `finish` after the last one."""
        numbers = self._numbers
        if numbers and numbers[-2] + numbers[-1] == offset:
            numbers[-1] += length
            return
        numbers.append(offset)
        numbers.append(length)
        if len(numbers) > 4 * self._limit:
            self._join()

    def finish(self) -> None:
        """Keep to the limit."""
        if len(self) > self._limit:
            self._join()

    def __len__(self) -> int:
        return len(self._numbers) // 2

    def __iter__(self) -> Iterator[tuple[int, int]]:
        numbers = iter(self._numbers)
        return zip(numbers, numbers, strict=True)

    @property
    def total_bytes(self) -> int:
        """How much all parts hold together."""
        return sum(self._numbers[1::2])

    @property
    def end(self) -> int:
        """Where the last part ends; 0 without one."""
        return sum(self._numbers[-2:])

    def _join(self) -> None:
        """Join parts over the smallest gaps until there are as many as may be."""
        old = self._numbers
        gaps = array("q", (old[at + 2] - old[at] - old[at + 1] for at in range(0, len(old) - 2, 2)))
        closed = sorted(gaps)[: len(self) - self._limit]
        widest, spare = closed[-1], closed.count(closed[-1])
        joined = old[:2]
        for number, gap in enumerate(gaps, start=1):
            offset, length = old[2 * number], old[2 * number + 1]
            if gap < widest or (gap == widest and spare > 0):
                spare -= gap == widest
                joined[-1] = offset + length - joined[-2]
            else:
                joined.append(offset)
                joined.append(length)
        self._numbers = joined
