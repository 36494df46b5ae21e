import os

import pytest

from crishim.errors import Precondition
from crishim.kernel import tree


def test_removes_all_kinds_of_entries_and_follows_no_link(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    victim = tmp_path / "victim"
    (victim / "a/b/c").mkdir(parents=True)
    (victim / "a/file").write_text("x")
    (victim / "a/link").symlink_to(outside)
    os.mkfifo(victim / "a/b/fifo")
    tree.remove_tree(victim)
    assert os.listdir(tmp_path) == ["outside"]
    assert (outside / "precious").exists()


def test_missing_tree_is_fine(tmp_path):
    tree.remove_tree(tmp_path / "no/such")
    tree.remove_tree(tmp_path / "none")


@pytest.mark.parametrize("call", ["open_dir_at", "unlink"])
def test_what_vanishes_meanwhile_leaves_nothing_behind(tmp_path, monkeypatch, call):
    """Somebody removes an entry between our look and our call: all the rest goes all the same."""
    for name in ("a/b", "c"):
        (tmp_path / "victim" / name).mkdir(parents=True)
        (tmp_path / "victim" / name / "file").write_text("x")
    owner = tree if call == "open_dir_at" else os
    real, seen = getattr(owner, call), []

    def gone(first, *args, **options):
        name = first if call == "unlink" else args[0]
        seen.append(name)
        if len(seen) == 2:
            here = options["dir_fd"] if call == "unlink" else first
            os.rename(name, tmp_path / "taken", src_dir_fd=here)
        return real(first, *args, **options)

    monkeypatch.setattr(owner, call, gone)
    tree.remove_tree(tmp_path / "victim")
    assert os.listdir(tmp_path) == ["taken"]


def test_an_unreadable_parent_is_not_an_absent_tree(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"):
        tree.remove_tree(tmp_path / "loop/victim")


def test_a_link_to_a_directory_is_refused(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(Precondition):
        tree.remove_tree(tmp_path / "link")
    assert (tmp_path / "real").is_dir()


def test_very_deep_tree(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    tree.remove_tree(tmp_path / "d")
    assert os.listdir(tmp_path) == []


def test_private_directory_is_closed_to_others(tmp_path):
    path = tmp_path / "a/b"
    tree.make_private_dir(path)
    os.chmod(path, 0o755)
    tree.make_private_dir(path)
    assert path.stat().st_mode & 0o777 == 0o700


def test_private_directory_is_not_a_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(Precondition):
        tree.make_private_dir(tmp_path / "link")
