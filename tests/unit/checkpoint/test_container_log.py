"""The log of a new container begins with the old one's, whatever lies at its path already."""

import pytest

from crishim.checkpoint import logs
from crishim.checkpoint.reader import ArchiveReader
from tests.unit.checkpoint.test_archive import write


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


def test_without_a_log_in_the_archive_nothing_is_touched(tmp_path):
    write(tmp_path / "a.tar", {"config.dump": b"{}"})
    (tmp_path / "0.log").write_bytes(b"mine")
    with ArchiveReader.open(tmp_path / "a.tar", trusted_owner=False) as reader:
        logs.carry(reader, tmp_path / "0.log")
    assert (tmp_path / "0.log").read_bytes() == b"mine"
