"""The final name of an archive: never over something else, and told by evidence alone."""

import errno
import os
import shutil

import pytest

from crishim.archive import appearance
from crishim.archive.writer import ArchiveWriter
from crishim.errors import AlreadyExists, CrishimError, NotFound, Precondition
from crishim.kernel import atomic
from tests.unit.samples import manifest


@pytest.fixture
def target(tmp_path):
    (tmp_path / "d").mkdir()
    return tmp_path / "d" / "a.tar"


@pytest.fixture
def writer(target):
    with ArchiveWriter.create(target) as writer:
        yield writer


def refused(monkeypatch, *, after: bool) -> None:
    """Let the rename fail by EIO, before or after it was done."""
    real = atomic.rename_new

    def rename(old, new):
        if after:
            real(old, new)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(atomic, "rename_new", rename)


def test_an_archive_that_is_there_is_not_replaced(target):
    target.write_bytes(b"the only copy of a stopped container")
    with pytest.raises(AlreadyExists, match="already there"):
        ArchiveWriter.create(target)
    assert target.read_bytes() == b"the only copy of a stopped container"


def test_nor_one_that_comes_meanwhile(writer, target):
    target.write_bytes(b"somebody else's")
    with pytest.raises(AlreadyExists):
        writer.commit(manifest())
    assert writer.appeared() is False
    writer.abort()
    assert target.read_bytes() == b"somebody else's"
    assert os.listdir(target.parent) == ["a.tar"]


def test_who_may_replace_is_asked_again_at_the_end(target):
    """A stopped container has got this archive since the beginning."""
    needed = []

    def ask() -> None:
        if needed:
            raise Precondition("it is needed")

    with ArchiveWriter.create(target, replace=ask) as writer:
        needed.append(target)
        target.write_bytes(b"theirs")
        with pytest.raises(Precondition, match="needed"):
            writer.commit(manifest())
    assert target.read_bytes() == b"theirs"


def test_a_link_or_a_device_is_never_replaced(target):
    target.symlink_to("/dev/null")
    with pytest.raises(AlreadyExists):
        ArchiveWriter.create(target, replace=lambda: None)


def test_a_file_system_without_an_exclusive_rename(target, monkeypatch):
    """As NFS: by link and unlink."""

    class Libc:
        @staticmethod
        def renameat2(*_: object) -> int:
            return -1

    monkeypatch.setattr(atomic, "_libc", Libc)
    monkeypatch.setattr(atomic.ctypes, "get_errno", lambda: errno.EINVAL)
    with ArchiveWriter.create(target) as writer:
        writer.commit(manifest())
        assert writer.appeared()
    assert os.listdir(target.parent) == ["a.tar"]
    with pytest.raises(AlreadyExists):
        ArchiveWriter.create(target)


def test_a_half_archive_that_somebody_has_removed_has_not_appeared(writer, target):
    writer.partial.unlink()
    with pytest.raises(NotFound):
        writer.commit(manifest())
    assert writer.appeared() is False
    assert not target.exists()


def test_its_directory_was_removed_too(writer, target):
    shutil.rmtree(target.parent)
    with pytest.raises(NotFound):
        writer.commit(manifest())
    assert writer.appeared() is False


def test_its_directory_was_moved(writer, target, tmp_path):
    """The half archive is seen wherever its directory is."""
    target.parent.rename(tmp_path / "elsewhere")
    with pytest.raises(NotFound):
        writer.commit(manifest())
    assert writer.appeared() is False
    writer.abort()
    assert os.listdir(tmp_path / "elsewhere") == []


def test_somebody_has_moved_the_half_archive_away(writer, target, tmp_path):
    """It has a name, but not this one nor that one: nobody can tell, and nothing is removed."""
    writer.partial.rename(tmp_path / "mine")
    with pytest.raises(NotFound):
        writer.commit(manifest())
    assert writer.appeared() is None
    writer.abort()
    assert (tmp_path / "mine").exists()


@pytest.mark.parametrize("after", [False, True])
def test_a_rename_that_is_said_to_have_failed(writer, target, monkeypatch, after):
    refused(monkeypatch, after=after)
    with pytest.raises(CrishimError):
        writer.commit(manifest())
    assert writer.appeared() is after
    assert target.exists() is after


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_a_file_system_that_does_not_answer_has_not_said_no(writer, target, monkeypatch, number):
    refused(monkeypatch, after=True)
    with pytest.raises(CrishimError):
        writer.commit(manifest())

    def look(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(appearance.os, "lstat", look)
        patch.setattr(appearance.os, "stat", look)
        assert writer.appeared() is None
        writer.abort()
    assert target.exists()


def test_nothing_is_asked_of_a_disk_before_the_rename(writer, monkeypatch):
    """It may hang, and the container with it."""
    monkeypatch.setattr(appearance.os, "lstat", None)
    monkeypatch.setattr(appearance.os, "stat", None)
    assert writer.appeared() is False


def test_only_its_own_file_is_withdrawn(writer, target):
    writer.commit(manifest())
    target.unlink()
    target.write_bytes(b"another one's")
    writer.withdraw()
    assert target.read_bytes() == b"another one's"


def test_what_has_replaced_another_file_is_not_withdrawn(target):
    """Nothing of the two would be left."""
    target.write_bytes(b"old")
    with ArchiveWriter.create(target, replace=lambda: None) as writer:
        size = writer.commit(manifest())
        writer.withdraw()
    assert target.stat().st_size == size


def test_what_was_withdrawn_is_gone(writer, target):
    writer.commit(manifest())
    writer.withdraw()
    writer.abort()
    assert os.listdir(target.parent) == []
