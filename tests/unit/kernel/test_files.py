"""A path that nobody can look at is not an absent one."""

import pytest

from crishim.kernel.files import entries, is_there


def test_there_or_not(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    assert is_there(tmp_path / "file")
    assert is_there(tmp_path / "link")
    assert not is_there(tmp_path / "absent")
    assert not is_there(tmp_path / "file" / "below")


def test_nobody_knows(tmp_path):
    with pytest.raises(OSError, match="too long"):
        is_there(tmp_path / ("n" * 300))


def test_what_a_directory_holds(tmp_path):
    (tmp_path / "b").touch()
    (tmp_path / "a").mkdir()
    assert entries(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    assert entries(tmp_path / "absent") == entries(tmp_path / "b") == []
    with pytest.raises(OSError, match="too long"):
        entries(tmp_path / ("n" * 300))
