"""Reads a container's memory a moment after it has arrived in an archive.

A restore that waits for the archive needs the digests before it appears, and the page images as
files that CRIU can read at once. Both are made while CRIU still dumps, by a thread of their own
that follows the one that receives: what it reads is still in the processor's caches, and CRIU never
waits for it. The copies are a convenience: where there is no room for them they are given up, and
the restore mounts or unpacks the archive.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
from typing import TYPE_CHECKING

from crishim.archive.digest import RunningDigest
from crishim.archive.writer import IMAGE_DIRECTORY
from crishim.errors import Corrupt
from crishim.kernel.atomic import write_all

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CHUNK_BYTES = 512 << 10
_COPY_BYTES_MAX = 1 << 30
"""A larger process is restored from the archive in place: its copy costs more than it saves."""
_log = logging.getLogger(__name__)


class Trail:
    """Follows the members of one archive; `finish` or `abandon` must be called.

    Args:
        fd: the archive; it stays the caller's.
        copies: existing empty directory for the page images as files; None for digests alone.
    """

    def __init__(self, fd: int, copies: Path | None) -> None:
        self._fd = fd
        self._copies = copies
        self._digests: dict[str, str] = {}
        self._error: OSError | Corrupt | None = None
        self._steps: queue.SimpleQueue[tuple[str, int, int] | None] = queue.SimpleQueue()
        self._name = ""
        self._state = RunningDigest()
        self._copy = -1
        self._buffer = memoryview(bytearray(_CHUNK_BYTES))
        self._thread = threading.Thread(target=self._run, name="trail", daemon=True)
        self._thread.start()

    def prepare(self, expected_bytes: int) -> None:
        """Write the blocks of the first copy ahead, as `ArchiveWriter.prepare` does; blocks."""
        if self._copies is None:
            return
        if expected_bytes > _COPY_BYTES_MAX:
            self._copies = None
            return
        with self._or_no_copies():
            fd = self._open("pages-1.img")
            try:
                os.posix_fallocate(fd, 0, max(expected_bytes, 1))
                for _ in range(0, expected_bytes, _CHUNK_BYTES):
                    write_all(fd, self._buffer)
            finally:
                os.close(fd)

    def arrived(self, name: str, start: int, end: int) -> None:
        """Say that this part of a member's data lies in the archive now; never waits."""
        self._steps.put((name, start, end))

    def finish(self) -> tuple[dict[str, str], Path | None]:
        """Wait for the rest; blocks.

        Returns: the digest of each member, by name; the directory with all page images, if so.
        Raises: OSError, Corrupt: the archive cannot be read back.
        """
        self._steps.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error
        if self._copies is not None:
            for path in self._copies.iterdir():
                if IMAGE_DIRECTORY + path.name not in self._digests:
                    path.unlink()
        return self._digests, self._copies

    def abandon(self) -> None:
        """End without a result; nothing to do after `finish`."""
        self._steps.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (step := self._steps.get()) is not None:
            if self._error is None:
                try:
                    self._follow(*step)
                except (OSError, Corrupt) as error:
                    self._error = error
        self._end_member()

    def _follow(self, name: str, start: int, end: int) -> None:
        if name != self._name:
            self._end_member()
            self._begin_member(name)
        while start < end:
            view = self._buffer[: end - start]
            count = os.preadv(self._fd, [view], start)
            if count == 0:
                raise Corrupt("the archive got shorter while it was written")
            self._state.update(view[:count])
            if self._copy >= 0:
                with self._or_no_copies():
                    write_all(self._copy, view[:count])
            start += count

    def _begin_member(self, name: str) -> None:
        self._name, self._state = name, RunningDigest()
        if self._copies is not None:
            with self._or_no_copies():
                self._copy = self._open(name.removeprefix(IMAGE_DIRECTORY))

    def _end_member(self) -> None:
        if self._name:
            self._digests[self._name] = self._state.result()
            self._name = ""
        if self._copy >= 0:
            with self._or_no_copies():
                os.ftruncate(self._copy, os.lseek(self._copy, 0, os.SEEK_CUR))
                self._close()

    def _open(self, name: str) -> int:
        assert self._copies is not None
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(self._copies / name, flags, 0o600)

    def _close(self) -> None:
        if self._copy >= 0:
            fd, self._copy = self._copy, -1
            os.close(fd)

    @contextlib.contextmanager
    def _or_no_copies(self) -> Iterator[None]:
        """Give the copies up if the block fails: they save time, nothing depends on them."""
        try:
            yield
        except OSError as error:
            _log.warning("no copy of the memory for the waiting restore: %s", error)
            copies, self._copies = self._copies, None
            with contextlib.suppress(OSError):
                self._close()
            assert copies is not None
            for path in copies.iterdir():
                path.unlink()
