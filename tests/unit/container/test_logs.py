"""The log of a new container begins with the old one's, whatever lies at its path already."""

import contextlib
import os

import pytest

from crishim.archive.reader import ArchiveReader
from crishim.archive.writer import ArchiveWriter
from crishim.container import logs
from tests.unit.archive.test_writer import write
from tests.unit.samples import manifest


@pytest.fixture
def archive(tmp_path):
    write(tmp_path / "a.tar", {logs.MEMBER: b"one\ntwo\n"})
    with ArchiveReader.open(tmp_path / "a.tar", trusted_owner=False) as reader:
        yield reader


def test_the_directory_is_made(archive, tmp_path):
    log = tmp_path / "pod" / "c" / "0.log"
    logs.carry(archive, log)
    assert log.read_bytes() == b"one\ntwo\n"
    assert [path.name for path in log.parent.iterdir()] == ["0.log"]


def test_a_log_that_is_there_is_moved_aside_under_the_name_of_a_rotated_one(archive, tmp_path):
    log = tmp_path / "logs" / "0.log"
    log.parent.mkdir()
    log.write_bytes(b"one\ntwo\nthree\n")
    logs.carry(archive, log)
    assert log.read_bytes() == b"one\ntwo\n"
    (rotated,) = log.parent.glob("0.log.[0-9]*-[0-9]*")
    assert rotated.read_bytes() == b"one\ntwo\nthree\n"


async def test_the_log_of_the_pause_is_kept_whatever_the_kubelet_makes_of_it(tmp_path):
    """It is rotated between the pause and the moment in which it is written into the archive."""
    log = tmp_path / "0.log"
    log.write_bytes(b"one\n")
    async with contextlib.AsyncExitStack() as undo:
        found = await logs.settled(log, pid=os.getpid(), undo=undo)
        log.rename(tmp_path / "0.log.20260101-000000")
        log.write_bytes(b"two\nthree\n")
        with ArchiveWriter.create(tmp_path / "b.tar") as writer:
            logs.add(writer, found)
            writer.commit(manifest())
    with ArchiveReader.open(tmp_path / "b.tar", trusted_owner=False) as reader:
        assert reader.read(logs.MEMBER) == b"one\n"


async def test_a_log_that_is_rotated_while_it_settles(tmp_path, monkeypatch):
    log = tmp_path / "0.log"
    log.write_bytes(b"one\n")
    polls = iter(range(1000))

    def waiting(_pid: int) -> int:
        if next(polls) == 1:
            log.rename(tmp_path / "0.log.20260101-000000")
            log.write_bytes(b"two\nthree\n")
        return 0

    monkeypatch.setattr(logs, "_waiting_bytes", waiting)
    async with contextlib.AsyncExitStack() as undo:
        found = await logs.settled(log, pid=os.getpid(), undo=undo)
        assert os.pread(found.fd, found.size_bytes, 0) == b"two\nthree\n"


async def test_a_container_without_a_log_file(tmp_path):
    async with contextlib.AsyncExitStack() as undo:
        assert await logs.settled(tmp_path / "none.log", pid=os.getpid(), undo=undo) is None


def test_without_a_log_in_the_archive_nothing_is_touched(tmp_path):
    write(tmp_path / "a.tar", {"config.dump": b"{}"})
    (tmp_path / "0.log").write_bytes(b"mine")
    with ArchiveReader.open(tmp_path / "a.tar", trusted_owner=False) as reader:
        logs.carry(reader, tmp_path / "0.log")
    assert (tmp_path / "0.log").read_bytes() == b"mine"
