"""What a running container of the pod has in the shared memory stays as it is, directories too."""

import os
from types import SimpleNamespace

import pytest

from crishim.archive import tar
from crishim.layer import apply


@pytest.fixture
def applier(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    tree = apply._Tree(fd)
    yield apply._Applier(
        -1, tree, "trusted.overlay.", device_allowed=lambda *_: False, keep=lambda _: True
    )
    os.close(fd)


def directory(*path):
    return SimpleNamespace(
        kind=tar.DIRECTORY, path=path, uid=os.geteuid(), gid=os.getegid(), mode=0o755,
        xattrs={}, mtime_ns=0,
    )  # fmt: skip


def test_a_directory_of_theirs_is_gone_through_and_not_changed(applier, tmp_path):
    (tmp_path / "own").mkdir(mode=0o700)
    before = (tmp_path / "own").stat()
    applier.apply(directory(b"own"))
    after = (tmp_path / "own").stat()
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    applier.apply(directory(b"own", b"new"))
    assert (tmp_path / "own" / "new").stat().st_mode & 0o777 == 0o755


def test_a_file_of_theirs_at_a_directorys_place_leaves_out_what_is_below(applier, tmp_path):
    """It made the restore fail at every attempt."""
    (tmp_path / "f").write_text("theirs")
    applier.apply(directory(b"f"))
    applier.apply(directory(b"f", b"below"))
    applier.apply(directory(b"other"))
    assert (tmp_path / "f").read_text() == "theirs"
    assert (tmp_path / "other").is_dir()
