"""What a pass over a directory has seen, in so few bytes that millions of files fit.

A tenant decides how many files there are, and the daemon that remembers them all must never be
killed. So the entries of a directory are their names in one piece, and two numbers each: 16 bytes
and the name, of about 300 as Python objects.
"""

from __future__ import annotations

import os
from array import array
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FILES_MAX = 2_000_000
"""How many entries of one directory tree are remembered, unless somebody says otherwise."""

_CHUNK = 1024


class Entries:
    """The entries of a directory in the order of their names; iterate for (name, inode, ctime).

    Args: names: sorted. inodes, ctimes_ns: as many.
    """

    __slots__ = ("_chunks", "_ctimes_ns", "_inodes")

    def __init__(self, names: Sequence[str], inodes: array[int], ctimes_ns: array[int]) -> None:
        self._chunks = tuple(
            os.fsencode("\0".join(names[at : at + _CHUNK])) for at in range(0, len(names), _CHUNK)
        )
        self._inodes = inodes
        self._ctimes_ns = ctimes_ns

    def __len__(self) -> int:
        return len(self._inodes)

    def __iter__(self) -> Iterator[tuple[str, int, int]]:
        return chain.from_iterable(
            zip(
                os.fsdecode(chunk).split("\0"),
                self._inodes[number * _CHUNK : (number + 1) * _CHUNK],
                self._ctimes_ns[number * _CHUNK : (number + 1) * _CHUNK],
                strict=True,
            )
            for number, chunk in enumerate(self._chunks)
        )


NONE = Entries((), array("Q"), array("q"))
"""Of a directory that nobody has looked into."""
