"""Which blocks of a large file changed since it was copied, told by their digests.

A database file or a log of a gigabyte that is written to between the passes must not be copied
whole during the pause: reading and hashing it again takes a third of the time and no memory. A
block is small, because one changed page costs a whole one.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import xxhash

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

BLOCK_BYTES = 64 << 10


def block_digests(fd: int, offset: int, size: int) -> list[bytes]:
    """Return the digest of each block of a part of a file; the last block may be short."""
    return [digest for _, _, digest in _blocks(fd, offset, size)]


def changed_extents(fd: int, size: int, digests: Sequence[bytes]) -> list[tuple[int, int]]:
    """Return (offset, length) of what differs from the content that had these digests.

    Args: size: the file's size now; what lies behind the old end counts as changed.
    """
    extents: list[tuple[int, int]] = []
    for number, (start, length, digest) in enumerate(_blocks(fd, 0, size)):
        if number < len(digests) and digests[number] == digest:
            continue
        if extents and sum(extents[-1]) == start:
            extents[-1] = (extents[-1][0], extents[-1][1] + length)
        else:
            extents.append((start, length))
    return extents


def patched_digests(
    digests: Sequence[bytes], size: int, extents: Iterable[tuple[int, int]], fd: int, offset: int
) -> list[bytes]:
    """Return the digests of a content after `changed_extents` of it were copied.

    Args: size: of the whole content now. fd, offset: where the copies lie, one after the other.
    """
    patched = list(digests[: _count(size)])
    for start, length in extents:
        first = start // BLOCK_BYTES
        patched[first : first + _count(length)] = block_digests(fd, offset, length)
        offset += length
    return patched


def _count(size: int) -> int:
    return -(-size // BLOCK_BYTES)


def _blocks(fd: int, offset: int, size: int) -> Iterator[tuple[int, int, bytes]]:
    view = memoryview(bytearray(BLOCK_BYTES))
    for start in range(0, size, BLOCK_BYTES):
        length = min(BLOCK_BYTES, size - start)
        count = os.preadv(fd, [view[:length]], offset + start)
        yield start, length, xxhash.xxh3_128_digest(view[:count])
