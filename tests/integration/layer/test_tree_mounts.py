"""A recursive delete stops before a mount, even of the same file system."""

import os

import pytest

from crishim.errors import Precondition
from crishim.kernel import mounts, tree


@pytest.mark.parametrize("flags", [0, mounts.MS_BIND])
def test_nothing_is_removed_when_something_is_mounted_below(tmp_path, flags):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").write_text("x")
    victim = tmp_path / "victim"
    (victim / "a/mounted").mkdir(parents=True)
    (victim / "file").write_text("x")
    mounts.mount(str(tmp_path / "precious"), victim / "a/mounted", fs_type="tmpfs", flags=flags)
    try:
        with pytest.raises(Precondition, match="mounted"):
            tree.remove_tree(victim)
        assert (victim / "file").exists()
    finally:
        mounts.umount(victim / "a/mounted")
    tree.remove_tree(victim)
    assert (tmp_path / "precious/file").exists()


def test_a_bind_mount_that_appears_late_is_not_entered(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").write_text("x")
    (tmp_path / "victim").mkdir()
    mounts.mount(str(tmp_path / "precious"), tmp_path / "victim", fs_type="", flags=mounts.MS_BIND)
    try:
        dir_fd = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(Precondition, match="mount point"):
            tree.remove_tree_at(dir_fd, "victim")
        os.close(dir_fd)
    finally:
        mounts.umount(tmp_path / "victim")
    assert (tmp_path / "precious/file").exists()
