import errno
import os

import pytest

from crishim.errors import NoSpace, NotFound, Precondition
from crishim.kernel import atomic


def test_write_file_replaces_and_leaves_nothing_else(tmp_path):
    target = tmp_path / "state.json"
    atomic.write_file(target, b"one")
    atomic.write_file(target, b"two", mode=0o644)
    assert target.read_bytes() == b"two"
    assert target.stat().st_mode & 0o777 == 0o644
    assert os.listdir(tmp_path) == ["state.json"]


def test_failed_write_keeps_the_old_content(tmp_path):
    target = tmp_path / "state"
    target.mkdir()
    with pytest.raises(OSError, match="directory"):
        atomic.write_file(target, b"new")
    assert os.listdir(tmp_path) == ["state"]


def test_sweep_removes_what_a_killed_writer_has_left(tmp_path):
    atomic.write_file(tmp_path / "state.json", b"whole")
    (tmp_path / ".state.json.0badcafe.new").write_bytes(b"ha")
    (tmp_path / "mine.new").write_bytes(b"")
    atomic.sweep_unfinished(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["mine.new", "state.json"]
    atomic.sweep_unfinished(tmp_path / "none")


def test_sweep_goes_on_where_somebody_else_was_quicker(tmp_path, monkeypatch):
    names = [f".state.json.0badcaf{n}.new" for n in range(3)]
    for name in names[:2]:
        (tmp_path / name).touch()
    monkeypatch.setattr(os, "listdir", lambda _: [names[2], *names[:2]])
    atomic.sweep_unfinished(tmp_path)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == []


def test_lock_excludes_until_its_descriptor_is_closed(tmp_path):
    first = atomic.try_lock(tmp_path / "lock")
    assert first is not None
    assert atomic.try_lock(tmp_path / "lock") is None
    os.close(first)
    second = atomic.try_lock(tmp_path / "lock")
    assert second is not None
    os.close(second)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, NoSpace),
        (errno.EDQUOT, NoSpace),
        (errno.ENOENT, NotFound),
        (errno.EROFS, Precondition),
    ],
)
def test_storage_errors_become_ours(number, kind):
    with (
        pytest.raises(kind, match="cannot save the thing"),
        atomic.storage_errors("cannot save the thing"),
    ):
        raise OSError(number, os.strerror(number), "/some/file")
