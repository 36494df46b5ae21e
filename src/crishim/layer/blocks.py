"""Which blocks of a large file changed since it was copied, told by their digests.

A database file or a log of a gigabyte that is written to between the passes must not be copied
whole during the pause: reading and hashing it again takes a third of the time. A block is small,
because one changed page costs a whole one. Digests of a content are one bytes object, 16 bytes for
each 64 KiB.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import xxhash

from crishim.layer.extents import Extents

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BLOCK_BYTES = 64 << 10
DIGEST_BYTES = 16


def block_digests(fd: int, offset: int, size: int) -> bytes:
    """Return the digests of the blocks of a part of a file; the last block may be short."""
    return b"".join(digest for _, _, digest in _blocks(fd, offset, size))


def changed_extents(fd: int, size: int, digests: bytes) -> Extents:
    """Return what differs from the content that had these digests, and more where it is much.

    Args: size: the file's size now; what lies behind the old end counts as changed.
    """
    extents = Extents()
    for number, (start, length, digest) in enumerate(_blocks(fd, 0, size)):
        if digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES] != digest:
            extents.add(start, length)
    extents.finish()
    return extents


def patched_digests(
    digests: bytes, size: int, extents: Iterable[tuple[int, int]], fd: int, offset: int
) -> bytes:
    """Return the digests of a content after `changed_extents` of it were copied.

    Args: size: of the whole content now. fd, offset: where the copies lie, one after the other.
    """
    patched = bytearray(digests[: _digest_bytes(size)])
    for start, length in extents:
        first = start // BLOCK_BYTES * DIGEST_BYTES
        patched[first : first + _digest_bytes(length)] = block_digests(fd, offset, length)
        offset += length
    return bytes(patched)


def _digest_bytes(size: int) -> int:
    return -(-size // BLOCK_BYTES) * DIGEST_BYTES


def _blocks(fd: int, offset: int, size: int) -> Iterator[tuple[int, int, bytes]]:
    view = memoryview(bytearray(BLOCK_BYTES))
    for start in range(0, size, BLOCK_BYTES):
        length = min(BLOCK_BYTES, size - start)
        count = os.preadv(fd, [view[:length]], offset + start)
        yield start, length, xxhash.xxh3_128_digest(view[:count])
