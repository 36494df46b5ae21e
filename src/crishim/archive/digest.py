"""The digest of archive entries: xxh3-128, which runs at the speed of memory.

It finds damage, not forgery: who may write an archive may write its digests too.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import xxhash

from crishim.aio.quiet import between_pieces
from crishim.errors import Corrupt

if TYPE_CHECKING:
    from collections.abc import Callable

_CHUNK_BYTES = 512 << 10


class RunningDigest:
    """The digest of what is fed to it piece by piece."""

    def __init__(self) -> None:
        self._state = xxhash.xxh3_128()

    def update(self, data: memoryview) -> None:
        """Add the next piece."""
        self._state.update(data)

    def result(self) -> str:
        """Return the digest of everything so far, as 32 hexadecimal digits."""
        return self._state.hexdigest()


def digest_bytes(data: bytes) -> str:
    """Return the digest of bytes in memory, as 32 hexadecimal digits."""
    return xxhash.xxh3_128_hexdigest(data)


def digest_range(
    fd: int, offset: int, size: int, progress: Callable[[int], None] | None = None
) -> str:
    """Return the digest of a part of a file.

    It is read by pread into one buffer: a mapping would be a quarter faster, but a file that gets
    shorter under a mapping ends the process by SIGBUS.
    Args: progress: told the bytes of each step; called in the thread of the caller.
    Raises: Corrupt: the file ends before.
    """
    state = RunningDigest()
    view = memoryview(bytearray(min(_CHUNK_BYTES, max(size, 1))))
    end = offset + size
    while offset < end:
        between_pieces()
        count = os.preadv(fd, [view[: end - offset]], offset)
        if count == 0:
            raise Corrupt("the archive is truncated")
        state.update(view[:count])
        offset += count
        if progress is not None:
            progress(count)
    return state.result()
