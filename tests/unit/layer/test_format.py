"""What the writer of layers writes the reader takes, whatever a file system may hold."""

import os
import stat
import tempfile
import time
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crishim.archive import tar
from crishim.errors import Unsupported
from crishim.layer.extents import EXTENTS_MAX, Extents
from crishim.layer.read import OPAQUE, PATCHED, REMOVED_ENTRY, WHITEOUT, read_layer
from crishim.layer.write import DEPTH_MAX, SPARSE_MAP_BYTES_MAX, LayerWriter

BLOCK = 4096
CHARACTERS = [bytes([code]) for code in range(1, 256) if code != ord("/")]

components = st.one_of(
    st.lists(st.sampled_from(CHARACTERS), min_size=1, max_size=12).map(b"".join),
    st.sampled_from([b".wh.x", b".wh..wh..opq", b"n" * 255, b"\xff" * 255, b".wh." + b"x" * 251]),
).filter(lambda name: name not in (b".", b".."))
paths = st.lists(components, min_size=1, max_size=4).map(b"/".join)
attributes = st.dictionaries(
    st.sampled_from([b"user.", b"trusted."]).flatmap(
        lambda prefix: components.map(lambda name: prefix + name[:200])
    ),
    st.one_of(st.binary(max_size=40), st.just(bytes(64 << 10))),
    max_size=4,
)
numbers = st.integers(0, 2**32 - 2)
statuses = st.builds(
    SimpleNamespace,
    st_mode=st.integers(0, 0o7777),
    st_uid=numbers,
    st_gid=numbers,
    st_mtime_ns=st.integers(-(2**63), 2**63 - 1),
    st_rdev=st.builds(os.makedev, st.integers(0, 4095), st.integers(0, 2**20 - 1)),
    st_size=st.just(0),
    st_blocks=st.just(0),
)
kinds = st.sampled_from(
    [
        "directory",
        "opaque",
        "whiteout",
        "removed",
        "hard",
        "link",
        "fifo",
        "device",
        "file",
        "patch",
    ]
)
entries = st.lists(st.tuples(kinds, paths, statuses, attributes, paths), max_size=5)
maps = st.lists(st.tuples(st.integers(1, 1 << 50), st.integers(1, 3)), max_size=6)


def there_and_back(fill):
    """Have a writer filled; return what `fill` returned and what a reader says."""
    with tempfile.TemporaryFile() as file:
        writer = LayerWriter(file.fileno(), 0)
        expected = fill(writer)
        return expected, list(read_layer(file.fileno(), 0, writer.finish()))


def status_of(size: int = 0):
    """Return what stat(2) would say of some file."""
    return SimpleNamespace(
        st_mode=0o755, st_uid=0, st_gid=0, st_mtime_ns=0, st_rdev=0, st_size=size
    )


def patch(size: int, parts):
    """Return what writes parts of an empty file as if it were that large."""

    def fill(writer: LayerWriter) -> None:
        with tempfile.TemporaryFile() as empty:
            writer.patch(b"f", status_of(size), {}, empty.fileno(), Extents(parts))

    return fill


def write(writer, kind, path, status, xattrs, target):
    """Write one entry; return what the reader is to say of it: kind, path, link."""
    parts = tuple(path.split(b"/"))
    modes = {"fifo": stat.S_IFIFO, "device": stat.S_IFCHR}
    status.st_mode |= modes.get(kind, 0)
    if kind in ("directory", "opaque"):
        writer.directory(path, status, xattrs, opaque=kind == "opaque")
        return [(tar.DIRECTORY, parts)] + [(OPAQUE, parts)] * (kind == "opaque")
    if kind == "whiteout":
        writer.whiteout(path)
        return [(WHITEOUT, parts)]
    if kind == "removed":
        writer.removed(path)
        return [(REMOVED_ENTRY, parts)]
    if kind == "hard":
        writer.hard_link(path, target, status)
        return [(tar.HARD_LINK, parts)]
    if kind == "link":
        writer.symlink(path, status, xattrs, target)
        return [(tar.SYMLINK, parts)]
    if kind in modes:
        writer.special(path, status, xattrs)
        return [(tar.FIFO if kind == "fifo" else tar.CHARACTER, parts)]
    with tempfile.TemporaryFile() as empty:
        if kind == "patch":
            writer.patch(path, status, xattrs, empty.fileno(), Extents())
            return [(PATCHED, parts)]
        writer.file(path, status, xattrs, empty.fileno())
        return [(tar.REGULAR, parts)]


@settings(max_examples=100, deadline=None)
@given(entries)
def test_every_entry_comes_back(wanted):
    def fill(writer):
        return [(pair, item) for item in wanted for pair in write(writer, *item)]

    expected, found = there_and_back(fill)
    assert [(entry.kind, entry.path) for entry in found] == [pair for pair, _ in expected]
    for entry, ((kind, _), (_, _, status, xattrs, target)) in zip(found, expected, strict=True):
        if kind in (OPAQUE, WHITEOUT, REMOVED_ENTRY):
            continue
        assert (entry.mode, entry.uid, entry.gid, entry.mtime_ns) == (
            stat.S_IMODE(status.st_mode),
            status.st_uid,
            status.st_gid,
            status.st_mtime_ns,
        )
        if kind == tar.HARD_LINK:
            assert entry.target == tuple(target.split(b"/"))
            continue
        assert {os.fsencode(name): value for name, value in entry.xattrs.items()} == xattrs
        if kind == tar.SYMLINK:
            assert entry.link == target
        if kind == tar.CHARACTER:
            assert os.makedev(*entry.device) == status.st_rdev


@settings(max_examples=100, deadline=None)
@given(maps, st.integers(0, 1 << 40))
def test_every_map_of_a_sparse_file_comes_back(gaps, tail):
    """Up to the largest file that there can be; the content itself is not looked at."""
    parts, position = [], 0
    for gap, length in gaps:
        parts.append((position + gap, length * 512))
        position = sum(parts[-1])
    _, (entry,) = there_and_back(patch(position + tail, parts))
    assert (entry.size, list(entry.extents)) == (position + tail, parts)


def test_the_deepest_path_of_the_longest_names_comes_back():
    path = b"/".join([b"n" * 255] * (DEPTH_MAX + 1))

    def fill(writer):
        writer.directory(path, status_of(), {}, opaque=True)
        writer.whiteout(path)

    _, entries = there_and_back(fill)
    assert [len(entry.path) for entry in entries] == [DEPTH_MAX + 1] * 3


def test_attributes_as_large_as_xfs_has_them_come_back_and_larger_ones_are_refused_at_once():
    values = {b"user.%d" % number: bytes(64 << 10) for number in range(200)}
    more = values | {b"user.more-%d" % number: bytes(64 << 10) for number in range(100)}
    _, (entry,) = there_and_back(lambda writer: writer.special(b"f", status_of(), values))
    assert len(entry.xattrs) == 200
    with pytest.raises(Unsupported, match=r"/f has \d+ bytes of extended attributes"):
        there_and_back(lambda writer: writer.special(b"f", status_of(), more))


def test_a_map_of_many_parts_is_read_in_a_moment():
    parts = [(number << 23, 512) for number in range(200_000)]
    with tempfile.TemporaryFile() as file:
        writer = LayerWriter(file.fileno(), 0)
        patch(200_000 << 23, parts)(writer)
        end = writer.finish()
        begin = time.thread_time()
        (entry,) = read_layer(file.fileno(), 0, end)
        assert time.thread_time() - begin < 2
    assert list(entry.extents) == parts


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=1, max_size=60),
    st.integers(1, 10),
)
def test_parts_beyond_the_limit_are_joined_over_the_smallest_gaps(gaps, limit):
    parts, position = [], 0
    for gap, length in gaps:
        parts.append((position + gap, length))
        position = sum(parts[-1])
    exact, joined = list(Extents(parts)), list(Extents(parts, limit=limit))
    assert len(joined) == min(limit, len(exact))
    covered = {at for offset, length in joined for at in range(offset, offset + length)}
    assert covered >= {at for offset, length in parts for at in range(offset, offset + length)}
    assert max(covered) == position - 1
    if len(exact) <= 2 * limit:
        wanted = sorted(after[0] - sum(before) for before, after in pairwise(exact))
        left = sorted(after[0] - sum(before) for before, after in pairwise(joined))
        assert left == wanted[len(wanted) - len(left) :]


def test_a_map_at_the_limit_fits_what_the_reader_takes():
    largest = len(str((1 << 63) - 1)) + 1
    assert (1 + 2 * (EXTENTS_MAX + 1)) * largest <= SPARSE_MAP_BYTES_MAX
