from pathlib import Path

import pytest

from lab.errors import LabError
from lab.host.remove import file_system_type, remove_tree
from lab.parts.cache import cached, files_of, recipe_key


def test_a_recipe_changes_with_each_part_and_with_their_borders():
    assert recipe_key("sid", "runc") == recipe_key("sid", b"runc")
    assert recipe_key("sid", "runc") != recipe_key("sidr", "unc")
    assert recipe_key("sid", "runc") != recipe_key("runc", "sid")


def test_the_recipe_of_a_folder_changes_with_names_and_content(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/a.go").write_text("one")
    before = recipe_key(*files_of(tmp_path))
    (tmp_path / "sub/a.go").write_text("two")
    changed = recipe_key(*files_of(tmp_path))
    (tmp_path / "sub/a.go").rename(tmp_path / "sub/b.go")
    assert len({before, changed, recipe_key(*files_of(tmp_path))}) == 3


def test_an_artifact_is_built_once_per_recipe(tmp_path):
    built = []

    def build(directory):
        built.append(directory)
        (directory / "made").write_text("x")

    first = cached(tmp_path, "thing", "key1", build)
    assert cached(tmp_path, "thing", "key1", build) == first
    assert (first / "made").read_text() == "x"
    assert len(built) == 1
    assert cached(tmp_path, "thing", "key2", build) != first
    assert len(built) == 2


def test_a_failed_build_leaves_nothing_that_passes_for_an_artifact(tmp_path):
    def fail(directory):
        (directory / "half").write_text("x")
        raise LabError("no space")

    with pytest.raises(LabError, match="no space"):
        cached(tmp_path, "thing", "key", fail)
    made = cached(tmp_path, "thing", "key", lambda directory: (directory / "whole").touch())
    assert [path.name for path in made.iterdir()] == ["whole"]


def test_a_tree_is_removed_without_following_symlinks(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    tree = tmp_path / "tree"
    (tree / "deep/er").mkdir(parents=True)
    (tree / "deep/er/file").touch()
    (tree / "deep/link").symlink_to(outside)
    remove_tree(tree)
    assert not tree.exists()
    assert (outside / "kept").exists()
    remove_tree(tree)


def test_a_tree_with_a_mount_in_it_is_refused():
    with pytest.raises(LabError, match="is mounted"):
        remove_tree(Path("/proc"))


def test_a_symlink_in_place_of_the_tree_is_refused(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(LabError, match="not a directory"):
        remove_tree(tmp_path / "link")
    assert (tmp_path / "real").exists()


def test_compiled_python_is_no_part_of_a_recipe(tmp_path):
    (tmp_path / "a.py").write_text("x")
    before = files_of(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__/a.cpython-311.pyc").write_bytes(b"x")
    assert files_of(tmp_path) == before


def test_the_file_system_of_a_path_is_the_innermost_mount_over_it(tmp_path):
    assert file_system_type(Path("/proc/self/status")) == "proc"
    assert file_system_type(Path("/sys/missing/deep")) == "sysfs"
    assert file_system_type(tmp_path / "missing") == file_system_type(tmp_path)
