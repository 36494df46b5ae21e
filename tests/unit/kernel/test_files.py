"""A path that nobody can look at is not an absent one."""

import pytest

from crishim.kernel.files import is_there


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
