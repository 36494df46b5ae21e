"""What changes between the passes, or during the first one, reaches the target all the same."""

import os
import random
import shutil
import threading
import time
from pathlib import Path

import pytest

from crishim.archive.reader import ArchiveReader
from crishim.errors import DeadlineExceeded
from crishim.layer.capture import LayerCapture
from crishim.layer.members import MEMBERS
from crishim.layer.read import read_layer
from tests.integration.layer.test_roundtrip import Change, nasty, nothing, travel


def populate(root: Path) -> None:
    """Make files to be changed later."""
    for name in ("kept", "grown", "shrunk", "rewritten", "chmodded", "gone", "becomes-dir"):
        (root / name).write_bytes(os.urandom(100_000))
    for name in ("dir-gone", "dir-renamed", "dir-replaced", "dir-becomes-file", "dir-kept"):
        (root / name / "sub").mkdir(parents=True)
        (root / name / "sub/file").write_text(name)
    (root / "link").symlink_to("kept")
    (root / "a").write_text("one inode")
    os.link(root / "a", root / "b")
    os.link(root / "a", root / "c")
    (root / "etc/conf.d/a").write_text("copied up")


def change(root: Path) -> None:
    """Change everything that `populate` made, in every way."""
    with open(root / "grown", "ab") as file:
        file.write(b"more")
    os.truncate(root / "shrunk", 10)
    with open(root / "rewritten", "r+b") as file:
        times = os.stat(root / "rewritten")
        file.write(b"new")
        file.flush()
        os.utime(root / "rewritten", ns=(times.st_atime_ns, times.st_mtime_ns))
    os.chmod(root / "chmodded", 0o4711)
    (root / "gone").unlink()
    (root / "becomes-dir").unlink()
    (root / "becomes-dir/sub").mkdir(parents=True)
    shutil.rmtree(root / "dir-gone")
    os.rename(root / "dir-renamed", root / "dir-renamed-now")
    shutil.rmtree(root / "dir-replaced")
    (root / "dir-replaced").mkdir()
    (root / "dir-replaced/other").write_text("other")
    shutil.rmtree(root / "dir-becomes-file")
    (root / "dir-becomes-file").write_text("file")
    (root / "dir-kept/sub/new").write_text("new")
    (root / "link").unlink()
    (root / "link").symlink_to("grown")
    (root / "b").unlink()
    os.link(root / "a", root / "d")
    (root / "etc/conf.d/a").unlink()
    (root / "etc/conf.d/b").unlink()
    shutil.rmtree(root / "opaque")
    (root / "opaque").mkdir()


@pytest.fixture(params=["between", "later"])
def when(request) -> str:
    """Before which of the two later passes something changes."""
    return request.param


def test_changes_between_the_passes_arrive(source, target, tmp_path, when):
    expected, found = travel(source, target, tmp_path / "a", before=populate, **{when: change})
    assert found == expected


def test_a_whole_tree_that_appears_between_the_passes_arrives(source, target, tmp_path, when):
    expected, found = travel(source, target, tmp_path / "a.tar", before=nothing, **{when: nasty})
    assert found == expected


def test_what_changes_before_each_pass_arrives(source, target, tmp_path):
    steps = {"before": nothing, "between": populate, "later": change}
    expected, found = travel(source, target, tmp_path / "a.tar", **steps)
    assert found == expected


def test_a_tree_that_is_undone_between_the_passes_is_gone(source, target, tmp_path, when):
    def undo(root: Path) -> None:
        shutil.rmtree(root / "directory-00-of-a-long-path")
        (root / ".wh.not-a-whiteout").unlink()
        (root / "hard-a").unlink()
        (root / "opaque/new").unlink()

    expected, found = travel(source, target, tmp_path / "a.tar", before=nasty, **{when: undo})
    assert found == expected


def test_names_of_one_file_stay_together_when_a_directory_is_renamed(source, target, tmp_path):
    def link(root: Path) -> None:
        (root / "a").mkdir()
        (root / "a/one").write_text("one inode")
        for name in ("two", "three"):
            os.link(root / "a/one", root / name)
        settle(source.upper)

    def rename(root: Path) -> None:
        os.rename(root / "a", root / "b")

    expected, found = travel(source, target, tmp_path / "a.tar", before=link, between=rename)
    assert found == expected
    assert found["b/one"]["same_file"] == ["b/one", "three", "two"]


def test_unchanged_files_are_not_written_again(source, tmp_path):
    with source.mounted() as root:
        nasty(root)
        capture = LayerCapture(source.overlay)
        settle(source.upper)
        with open(tmp_path / "one", "w+b") as one, open(tmp_path / "two", "w+b") as two:
            capture.first_pass(one.fileno(), 0)
            (root / "etc/conf.d/a").write_text("the only change")
            os.chmod(root / "hard-a", 0o640)
            end = capture.last_pass(two.fileno(), 0)
            assert end is not None
            entries = [b"/".join(entry.path) for entry in read_layer(two.fileno(), 0, end)]
            assert sorted(entries) == [b"etc/conf.d/a", b"etc/hard-b", b"hard-a"]


def test_later_passes_of_an_unchanged_layer_are_empty(source, tmp_path):
    with source.mounted() as root:
        nasty(root)
        settle(source.upper)
        with open(tmp_path / "tar", "w+b") as tar:
            capture = LayerCapture(source.overlay)
            capture.first_pass(tar.fileno(), 0)
            assert capture.catch_up(tar.fileno(), 0) is None
            assert capture.last_pass(tar.fileno(), 0) is None


@pytest.mark.parametrize("seed", range(3))
def test_a_busy_writer_during_the_passes_does_no_harm(source, target, tmp_path, seed, when):
    stop = threading.Event()
    writer = threading.Thread(target=lambda: None)

    def begin(root: Path) -> None:
        nonlocal writer
        populate(root)
        (root / "big").write_bytes(os.urandom(9 << 20))
        writer = threading.Thread(target=mutate, args=(root, random.Random(seed), stop))
        writer.start()

    def end(_: Path) -> None:
        stop.set()
        writer.join()

    expected, found = travel(source, target, tmp_path / "a.tar", before=begin, **{when: end})
    assert found == expected


def mutate(root: Path, choice: random.Random, stop: threading.Event) -> None:
    """Write, truncate, rename, link and remove as fast as possible."""
    number = 0
    while not stop.is_set():
        number += 1
        name = root / f"busy-{number % 40}"
        action = choice.randrange(8)
        if action == 0:
            with open(root / "big", "r+b") as file:
                os.pwrite(file.fileno(), os.urandom(5000), choice.randrange(9 << 20))
        elif action == 1:
            os.truncate(root / "big", choice.randrange(9 << 20))
        elif action == 2:
            shutil.rmtree(name) if name.is_dir() else name.write_bytes(
                os.urandom(choice.randrange(9000))
            )
        elif action == 3 and not name.is_dir():
            os.replace(root / "grown", root / "grown-2")
            shutil.copyfile(root / "grown-2", root / "grown")
        elif action == 4:
            name.unlink() if name.is_file() else name.mkdir(exist_ok=True)
        elif action == 5 and not os.path.lexists(name):
            os.link(root / "kept", name)
        elif action == 6 and name.is_dir():
            (name / "inside").write_text(str(number))
        elif action == 7 and name.is_dir():
            os.rename(name, root / f"moved-{number}")


@pytest.mark.parametrize("size", [9 << 20, 10_000_001])
def test_of_a_large_file_only_the_changes_are_written(source, target, tmp_path, size):
    def large(root: Path) -> None:
        for name in ("db", "cut", "appended"):
            (root / name).write_bytes(os.urandom(size))
            os.setxattr(root / name, "user.old", b"1")
        os.link(root / "db", root / "db-too")

    def touch(root: Path, byte: bytes = b"*") -> None:
        for place in (0, 4_000_000, size - 1):
            with open(root / "db", "r+b") as file:
                os.pwrite(file.fileno(), byte, place)
        os.truncate(root / "cut", 5_000_001)
        os.setxattr(root / "cut", "user.old", byte)
        with open(root / "appended", "ab") as file:
            file.write(b"log line")
        os.chmod(root / "appended", 0o600)

    def touch_again(root: Path) -> None:
        touch(root, b"!")
        os.truncate(root / "cut", 3_000_000)

    archive = tmp_path / "a.tar"
    steps = {"before": large, "between": touch, "later": touch_again}
    expected, found = travel(source, target, archive, **steps)
    assert found == expected
    with ArchiveReader.open(archive, trusted_owner=False) as reader:
        for name in MEMBERS[1:]:
            assert reader.members[name].size < 2 << 20


def test_a_block_that_changes_back_is_written_back(source, target, tmp_path):
    """The last pass must compare with what the second has written, not with the first."""
    old, new = os.urandom(9 << 20), b"x" * 100

    def write(content: bytes) -> Change:
        def change(root: Path) -> None:
            with open(root / "db", "r+b") as file:
                file.write(content)

        return change

    def large(root: Path) -> None:
        (root / "db").write_bytes(old)

    steps = {"before": large, "between": write(new), "later": write(old[:100])}
    expected, found = travel(source, target, tmp_path / "a.tar", **steps)
    assert found == expected


def test_cancel_ends_a_pass(source, tmp_path):
    with source.mounted() as root, open(tmp_path / "tar", "w+b") as tar:
        populate(root)
        capture = LayerCapture(source.overlay)
        capture.cancel()
        with pytest.raises(DeadlineExceeded):
            capture.first_pass(tar.fileno(), 0)


def settle(upper: Path) -> None:
    """Wait until no file's time is so young that it counts as possibly written again."""
    newest = max(
        os.lstat(os.path.join(directory, name)).st_ctime_ns
        for directory, names, files in os.walk(upper)
        for name in [".", *names, *files]
    )
    while time.time_ns() < newest + 150_000_000:
        time.sleep(0.01)
