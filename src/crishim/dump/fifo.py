"""Memory pages from CRIU straight into an archive, through FIFOs in CRIU's image directory.

CRIU opens `pages-N.img` for writing and never looks at what it is: a FIFO lets it splice into a
pipe, and a thread of ours splices on into the file. The container must stay paused until `finish`
has returned, because the pipe holds references to its live pages. Nothing here may ever leave CRIU
blocked in an open or a write, as the container would stay frozen with it.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from crishim.aio.lanes import Lane
from crishim.aio.shield import in_thread
from crishim.archive.writer import IMAGE_DIRECTORY
from crishim.errors import Corrupt, Unsupported
from crishim.kernel.atomic import storage_errors
from crishim.kernel.splice import grow_pipe, splice_some

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from crishim.archive.writer import ArchiveWriter
    from crishim.dump.trail import Trail


_SPARE_FIFOS = 8
_FIFOS_MAX = 256
"""CRIU writes one page image per process and per piece of shared memory; with too few FIFOs the
rest become ordinary files, which costs a copy. Each takes a descriptor of the daemon's, which other
dumps and restores need too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivePages:
    """The page sink that is an archive (`sink.PageSink`).

    Attributes:
        writer: gets one member per page image.
        trail: told what has arrived; None if nobody wants to know.
    """

    writer: ArchiveWriter
    trail: Trail | None
    runc_args: tuple[str, ...] = ()

    def receiver(self, images: Path, *, processes: int) -> FifoReceiver:
        """Return the readers of FIFOs in CRIU's image directory."""
        count = min(processes + _SPARE_FIFOS, _FIFOS_MAX)
        return FifoReceiver(self.writer, images, count=count, trail=self.trail)


class FifoReceiver:
    """The readers of one dump's FIFOs; enter its `async with` block before CRIU starts.

    Leaving the block closes what is open and removes the FIFOs. CRIU must have ended by then.
    Args:
        writer: gets one member per page image, while nobody else writes to it.
        image_dir: CRIU's empty image directory.
        count: how many page images at most are received; CRIU makes ordinary files of the rest,
            which stay in the directory.
        trail: told what has arrived; None if nobody wants to know.
    """

    def __init__(
        self,
        writer: ArchiveWriter,
        image_dir: Path,
        *,
        count: int,
        trail: Trail | None = None,
    ) -> None:
        self._writer = writer
        self._trail = trail
        self._dir = image_dir
        self._count = count
        self._numbers: dict[int, int] = {}
        self._current: tuple[int, int] | None = None
        self.received_bytes = 0
        """Of all page images, so far; any thread may ask."""
        self._error: BaseException | None = None
        self._ended = False
        self._poll = select.epoll()
        self._returned = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="fifo-receiver", daemon=True)

    async def __aenter__(self) -> Self:
        try:
            for number in range(1, self._count + 1):
                path = self._dir / f"pages-{number}.img"
                os.mkfifo(path, 0o600)
                fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                self._numbers[fd] = number
                grow_pipe(fd)
                self._poll.register(fd, select.EPOLLIN)
            self._poll.register(self._returned, select.EPOLLIN)
            self._thread.start()
        except BaseException:
            await in_thread(self._close, lane=Lane.PAUSE)
            raise
        return self

    async def finish(self) -> int:
        """Receive what is left, after runc has returned; the container may go on afterwards.

        Returns: bytes of all page images received.
        Raises: NoSpace: the disk was full; the dump has failed too, or its images are incomplete.
            Unsupported, Corrupt: CRIU behaved in a way that this does not know.
        """
        os.eventfd_write(self._returned, 1)
        await in_thread(self._thread.join, lane=Lane.PAUSE)
        if self._error is not None:
            with storage_errors("cannot write the memory of the container"):
                raise self._error
        return self.received_bytes

    async def __aexit__(self, *_: object) -> None:
        os.eventfd_write(self._returned, 1)
        await in_thread(self._join, lane=Lane.PAUSE)

    def _join(self) -> None:
        """Wait for the reader, which may be in the middle of a write to a slow disk."""
        self._thread.join()
        self._close()

    def _close(self) -> None:
        for fd in self._numbers:
            os.close(fd)
        self._numbers.clear()
        self._poll.close()
        os.close(self._returned)
        _unlink_fifos(self._dir)

    def _run(self) -> None:
        try:
            self._receive()
        except BaseException as error:  # noqa: BLE001  raised again by finish()
            self._error = error
            self._refuse()

    def _receive(self) -> None:
        for ready in self._events():
            # CRIU numbers its page images as it opens them and closes one before the next.
            for fd in sorted(ready, key=self._numbers.__getitem__):
                if self._current is None:
                    self._current = (fd, self._writer.begin_member(self._name(fd)))
                elif self._current[0] != fd:
                    raise Unsupported("CRIU writes two page images at the same time")
                self._drain(fd)
        if self._current is not None:
            raise Corrupt("CRIU ended, but its page image is still open")

    def _refuse(self) -> None:
        """Make every write of CRIU fail, and no open block, until it has ended."""
        _unlink_fifos(self._dir)
        if self._current is not None:
            self._forget(self._current[0])
        for ready in self._events():
            # An open that was on its way when the names went still finds a reader.
            for fd in ready:
                self._forget(fd)

    def _events(self) -> Iterator[list[int]]:
        """Yield the pipes that have data or came to their end, until CRIU has ended."""
        while True:
            ready = [fd for fd, _ in self._poll.poll(0 if self._ended else None)]
            if self._returned in ready:
                self._poll.unregister(self._returned)
                self._ended = True
                continue
            if self._ended and not ready:
                return
            yield ready

    def _drain(self, fd: int) -> None:
        assert self._current is not None
        offset = self._current[1]
        while count := splice_some(fd, self._writer.fd, offset):
            if self._trail is not None:
                self._trail.arrived(self._name(fd), offset, offset + count)
            offset += count
            self.received_bytes += count
        self._current = (fd, offset)
        if count == 0:
            self._current = None
            self._forget(fd)
            self._writer.end_member(offset)

    def _name(self, fd: int) -> str:
        return f"{IMAGE_DIRECTORY}pages-{self._numbers[fd]}.img"

    def _forget(self, fd: int) -> None:
        self._poll.unregister(fd)
        os.close(fd)
        del self._numbers[fd]


def _unlink_fifos(image_dir: Path) -> None:
    """Remove the FIFOs of a directory, so that CRIU makes ordinary files from now on."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(image_dir):
            path = image_dir / name
            if stat.S_ISFIFO(os.lstat(path).st_mode):
                os.unlink(path)
