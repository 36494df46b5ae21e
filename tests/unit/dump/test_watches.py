import ctypes
import os

import pytest

from crishim.dump import watches
from crishim.kernel import procs

ME = [os.getpid()]
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def watch():
    """Watch a path until the test ends."""
    fd = _libc.inotify_init1(0)

    def add(path):
        assert _libc.inotify_add_watch(fd, os.fsencode(path), 0x2) > 0

    yield add
    os.close(fd)


def test_watched_inodes_are_found_by_their_device(tmp_path, watch):
    watch(tmp_path)
    watch("/proc")
    device = os.stat(tmp_path).st_dev
    assert procs.watched_inodes(ME, device=device) == {os.stat(tmp_path).st_ino}
    assert procs.watched_inodes(ME, device=os.stat("/proc").st_dev) == {os.stat("/proc").st_ino}


def test_paths_of_inodes(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/file").touch()
    (tmp_path / "link").symlink_to("/")
    inodes = [os.stat(tmp_path / name).st_ino for name in (".", "a/b", "a/file")]
    found = watches.paths(str(tmp_path), [*inodes, os.stat("/").st_ino])
    assert sorted(found) == ["/.", "/a/b", "/a/file"]


def test_nothing_is_looked_for_where_nothing_is_watched(monkeypatch):
    monkeypatch.setattr(os, "fwalk", None)
    assert procs.watched_inodes(ME, device=os.stat("/").st_dev) == set()
    assert watches.criu_config(ME[0], ME) == ""


def test_what_is_inside_comes_first_and_odd_names_not_at_all(monkeypatch):
    found = ["/.", "/abc", "/a/b/c", "/a/with blank", '/a/"quoted"', "/a/b"]
    monkeypatch.setattr(watches, "paths", lambda *_: found)
    monkeypatch.setattr(procs, "watched_inodes", lambda *_, **__: {1})
    lines = watches.criu_config(ME[0], ME).splitlines()
    assert lines == [f"irmap-scan-path {path}" for path in ("/a/b/c", "/abc", "/a/b", "/.")]
