"""What a dump remembers of a layer: exact, whatever the names, and small, however many."""

import contextlib
import os
import resource
import tracemalloc
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crishim.errors import Unsupported
from crishim.kernel.tree import remove_tree
from crishim.layer.capture import LayerCapture
from crishim.layer.known import Entries
from crishim.layer.overlay import plain_overlay
from crishim.layer.read import read_layer

names = st.binary(min_size=1, max_size=20).filter(lambda name: not set(name) & {0, ord("/")})
marks = st.tuples(st.integers(0, 2**64 - 1), st.integers(-(2**63), 2**63 - 1))


def entries(items: list[tuple[str, tuple[int, int]]]) -> Entries:
    """Return them as a pass would make them."""
    return Entries(
        [name for name, _ in items],
        array("Q", (mark[0] for _, mark in items)),
        array("q", (mark[1] for _, mark in items)),
    )


@given(st.dictionaries(names.map(os.fsdecode), marks))
def test_all_comes_back_in_order(wanted):
    known = entries(sorted(wanted.items()))
    assert len(known) == len(wanted)
    assert list(known) == [(name, *wanted[name]) for name in sorted(wanted)]


@pytest.mark.parametrize("count", [0, 1, 1023, 1024, 1025, 5000])
def test_any_number_comes_back(count):
    items = [(f"file-{number:06}", (number, -number)) for number in range(count)]
    assert list(entries(items)) == [(name, *mark) for name, mark in items]


def test_an_entry_costs_little_more_than_its_name():
    items = [(f"some-module-name-{number:06}.js", (1 << 40, 1 << 60)) for number in range(100_000)]
    tracemalloc.start()
    try:
        known = entries(items)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(known) == 100_000
    assert kept / len(known) < 26 + 24


@pytest.fixture
def capture(tmp_path):
    """A capture of a directory with four entries in all, that takes no more."""
    upper = tmp_path / "upper"
    (upper / "a/b").mkdir(parents=True)
    for name in ("a/b/c", "d"):
        (upper / name).touch()
    return LayerCapture(plain_overlay(upper), files_max=4)


@pytest.fixture
def few_descriptors():
    """No more than a few hundred; what the session has open already counts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = max(map(int, os.listdir("/proc/self/fd"))) + 300
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("depth", [256, 257])
def test_the_deepest_directory_costs_one_descriptor_a_level(tmp_path, few_descriptors, depth):
    """There is a limit, because the reader must have one; up to it everything works."""
    (tmp_path / "upper").mkdir()
    fd = os.open(tmp_path / "upper", os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d" * 200, dir_fd=fd)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("file", os.O_CREAT, dir_fd=fd))
    os.close(fd)
    capture = LayerCapture(plain_overlay(tmp_path / "upper"))
    refused = pytest.raises(Unsupported, match="more than 256 directories")
    with (
        open(tmp_path / "tar", "w+b") as tar,
        contextlib.nullcontext() if depth == 256 else refused,
    ):
        end = capture.first_pass(tar.fileno(), 0)
        found = list(read_layer(tar.fileno(), 0, end))
        assert [len(entry.path) for entry in found] == list(range(258))
    remove_tree(tmp_path / "upper")


@pytest.mark.parametrize("place", ["e", "a/e", "a/b/e"])
def test_too_many_files_are_refused_with_the_cure(capture, tmp_path, place):
    with open(tmp_path / "tar", "w+b") as tar:
        capture.first_pass(tar.fileno(), 0)
        capture.catch_up(tar.fileno(), 0)
        (tmp_path / "upper" / place).touch()
        with pytest.raises(Unsupported, match=r"more than 4 files.*layer_files_max"):
            capture.catch_up(tar.fileno(), 0)


def test_the_name_of_a_file_is_that_of_the_last_pass(capture, tmp_path):
    """A directory was renamed between the passes: its files are where it is now."""
    upper = tmp_path / "upper"
    inode = (upper / "a/b/c").stat().st_ino
    with open(tmp_path / "tar", "w+b") as tar:
        capture.first_pass(tar.fileno(), 0)
        (upper / "a").rename(upper / "0")
        capture.last_pass(tar.fileno(), 0)
    assert capture.names({inode}) == {inode: "0/b/c"}


def test_an_attribute_that_cannot_be_read_is_not_left_out(capture, tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "listxattr", lambda _: ["user.precious"])
    monkeypatch.setattr(os, "getxattr", broken)
    with open(tmp_path / "tar", "w+b") as tar, pytest.raises(Exception, match="Input/output"):
        capture.first_pass(tar.fileno(), 0)
