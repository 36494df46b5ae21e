"""Records of stopped containers: there and back, and what counts as committed."""

from dataclasses import replace

import pytest

from crishim.checkpoint import heldrecord
from crishim.errors import Corrupt
from tests.unit.checkpoint.samples import held_record


@pytest.fixture
def record(tmp_path):
    return held_record(archive=str(tmp_path / "a.tar"))


def test_there_and_back(record):
    assert heldrecord.decode(heldrecord.encode(record)) == record


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"sandbox": "../x"}'])
def test_anything_else_is_refused(data):
    with pytest.raises(Corrupt):
        heldrecord.decode(data)


def test_only_the_file_that_was_written_is_the_archive(record, tmp_path):
    """An older archive of the same name does not count; the new one does once it is renamed."""
    (tmp_path / "a.tar").write_text("old")
    partial = tmp_path / ".a.tar.partial"
    partial.write_text("new")
    record = replace(record, inode=partial.stat().st_ino)
    assert not heldrecord.is_committed(record)
    partial.rename(tmp_path / "a.tar")
    assert heldrecord.is_committed(record)
    (tmp_path / "a.tar").unlink()
    assert not heldrecord.is_committed(record)


def test_connections_that_were_handed_over_do_not_wait(record):
    assert record.waiting == ("10.0.0.2",)
    assert replace(record, handed_over=True).waiting == ()
