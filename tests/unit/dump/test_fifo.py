"""The receiver of page images, with threads that do what CRIU does."""

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from crishim.archive.reader import ArchiveReader
from crishim.archive.writer import ArchiveWriter
from crishim.dump import fifo
from crishim.dump.fifo import FifoReceiver
from crishim.errors import NoSpace, Unsupported
from tests.unit.samples import manifest


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


@pytest.fixture
def writer(tmp_path):
    with ArchiveWriter.create(tmp_path / "a.tar") as writer:
        yield writer


class Criu(threading.Thread):
    """Runs what CRIU would do, and keeps the error that it would report."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__()
        self._work = work
        self.error: OSError | None = None
        self.start()

    def run(self) -> None:
        try:
            self._work()
        except OSError as error:
            self.error = error

    def ended(self) -> "Criu":
        self.join(timeout=20)
        assert not self.is_alive(), "CRIU is blocked"
        return self


def page_image(directory: Path, number: int, data: bytes) -> None:
    """Write as CRIU does: create or truncate, no look at what it is."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    fd = os.open(directory / f"pages-{number}.img", flags, 0o600)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]
    finally:
        os.close(fd)


async def test_page_images_of_all_sizes_arrive(images, writer, tmp_path):
    data = [os.urandom(size) for size in (3_000_000, 0, 1, 4096, 70_000)]

    def dump() -> None:
        for number, content in enumerate(data, 1):
            page_image(images, number, content)
        (images / "inventory.img").write_bytes(b"small")

    async with FifoReceiver(writer, images, count=9) as receiver:
        Criu(dump).ended()
        assert await receiver.finish() == sum(map(len, data))
    assert os.listdir(images) == ["inventory.img"]
    writer.add_images(images)
    writer.commit(manifest())
    with ArchiveReader.open(tmp_path / "a.tar", trusted_owner=False) as reader:
        reader.verify()
        found = [reader.read(f"checkpoint/pages-{n}.img") for n in range(1, len(data) + 1)]
    assert found == data


async def test_too_few_fifos_leave_ordinary_files_that_are_added(images, writer, tmp_path):
    def dump() -> None:
        for number in range(1, 5):
            page_image(images, number, b"%d" % number * 100_000)

    async with FifoReceiver(writer, images, count=2) as receiver:
        Criu(dump).ended()
        await receiver.finish()
    assert sorted(os.listdir(images)) == ["pages-3.img", "pages-4.img"]
    writer.add_images(images)
    writer.commit(manifest())
    with ArchiveReader.open(tmp_path / "a.tar", trusted_owner=False) as reader:
        reader.verify()
        assert reader.read("checkpoint/pages-4.img") == b"4" * 100_000


async def test_a_dump_that_fails_at_once_leaves_nothing(images, writer):
    async with FifoReceiver(writer, images, count=3) as receiver:
        assert await receiver.finish() == 0
    assert os.listdir(images) == []


def full_disk(after_bytes: int) -> Callable[[int, int, int], int | None]:
    """Return a splice whose file system is full after some bytes."""
    left = after_bytes
    real = fifo.splice_some

    def splice(pipe_fd: int, out_fd: int, offset: int) -> int | None:
        nonlocal left
        count = real(pipe_fd, out_fd, offset)
        left -= count or 0
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return count

    return splice


@pytest.mark.parametrize("after_bytes", [0, 2_000_000])
async def test_full_disk_fails_the_dump_and_blocks_nobody(images, writer, monkeypatch, after_bytes):
    monkeypatch.setattr(fifo, "splice_some", full_disk(after_bytes))
    async with FifoReceiver(writer, images, count=4) as receiver:
        criu = Criu(lambda: page_image(images, 1, bytes(50_000_000))).ended()
        with pytest.raises(NoSpace):
            await receiver.finish()
    assert criu.error is not None
    assert criu.error.errno == errno.EPIPE
    assert os.listdir(images) == []


async def test_full_disk_between_images_blocks_nobody(images, writer, monkeypatch):
    """CRIU may have written an image into the pipe before the disk turns out full."""
    monkeypatch.setattr(fifo, "splice_some", full_disk(0))

    def dump() -> None:
        for number in range(1, 7):
            page_image(images, number, b"x" * 1000)

    async with FifoReceiver(writer, images, count=4) as receiver:
        Criu(dump).ended()
        with pytest.raises(NoSpace):
            await receiver.finish()


async def test_full_disk_after_criu_has_ended(images, writer, monkeypatch):
    """The last bytes may still be in the pipe when runc returns."""
    dumped = threading.Event()
    splice = full_disk(0)

    def slow_splice(*arguments: int) -> int | None:
        dumped.wait(timeout=20)
        return splice(*arguments)

    monkeypatch.setattr(fifo, "splice_some", slow_splice)
    async with FifoReceiver(writer, images, count=4) as receiver:
        Criu(lambda: page_image(images, 1, b"x" * 1000)).ended()
        finishing = asyncio.ensure_future(receiver.finish())
        await asyncio.sleep(0)
        dumped.set()
        with pytest.raises(NoSpace):
            await finishing


async def test_two_images_at_once_end_in_an_error_not_in_a_deadlock(images, writer):
    def dump() -> None:
        first = os.open(images / "pages-1.img", os.O_WRONLY)
        os.write(first, b"x")
        try:
            page_image(images, 2, bytes(5_000_000))
        finally:
            os.close(first)

    async with FifoReceiver(writer, images, count=2) as receiver:
        criu = Criu(dump).ended()
        with pytest.raises(Unsupported):
            await receiver.finish()
    assert criu.error is not None
