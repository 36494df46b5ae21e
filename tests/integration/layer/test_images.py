"""CRIU's images as a directory: in place by EROFS, as a lab node can, or unpacked."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from crishim.archive.reader import ArchiveReader
from crishim.archive.writer import ArchiveWriter
from crishim.errors import NotFound
from crishim.kernel import mounts
from crishim.restore.images import ImageDirectories, remove_images
from crishim.restore.preparations import Prepared
from tests.unit.samples import manifest

CONTENT = {
    "inventory.img": b"inventory",
    "pages-1.img": os.urandom(3_000_000),
    "pages-2.img": b"",
    "tmpfs-dev-1.tar.gz.img": os.urandom(4097),
}


@pytest.fixture
def disk():
    """A directory on a disk: the kernel takes no EROFS index from a tmpfs, as /tmp may be."""
    path = Path(tempfile.mkdtemp(prefix="crishim-test-", dir="/var/log"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def archive(disk):
    path = disk / "a, with a comma.tar"
    with ArchiveWriter.create(path) as writer:
        for name, data in CONTENT.items():
            writer.add_bytes(f"checkpoint/{name}", data)
        writer.add_bytes("rootfs-diff.tar", bytes(10_240))
        writer.commit(manifest())
    return path


def content(directory: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in directory.iterdir()}


async def test_in_place_while_the_archive_may_already_be_unlinked(disk, archive):
    with ArchiveReader.open(archive) as reader:
        images = await ImageDirectories(unpack_bytes=0).make(reader, disk / "work")
    archive.unlink()
    try:
        assert content(images) == CONTENT
        assert mounts.mount_at(mounts.read_mounts(), str(images.parent)) is not None
    finally:
        remove_images(disk / "work")
    assert os.listdir(disk / "work") == []
    assert mounts.mounts_below(mounts.read_mounts(), str(disk)) == []


async def test_moved_with_its_mount_to_the_container_that_takes_it(disk, archive):
    with ArchiveReader.open(archive) as reader:
        await ImageDirectories(unpack_bytes=0).make(reader, disk / "work")
    (disk / "container").mkdir()
    prepared = Prepared(disk / "work")
    images = await prepared.take(disk / "container" / "images")
    await prepared.remove()
    try:
        assert content(images) == CONTENT
        assert mounts.mount_at(mounts.read_mounts(), str(images.parent)) is not None
    finally:
        remove_images(disk / "container" / "images")
    assert sorted(os.listdir(disk)) == [archive.name, "container"]
    assert mounts.mounts_below(mounts.read_mounts(), str(disk)) == []


async def test_unpacked_where_mkfs_is_missing(disk, archive, monkeypatch):
    monkeypatch.setattr("crishim.kernel.process.PATH", "/nonexistent")
    with ArchiveReader.open(archive) as reader:
        images = await ImageDirectories(unpack_bytes=0).make(reader, disk / "work")
        assert content(images) == CONTENT
    assert mounts.mounts_below(mounts.read_mounts(), str(disk)) == []
    remove_images(disk / "work")
    assert os.listdir(disk / "work") == []


async def test_unpacked_where_the_kernel_refuses_the_mount(disk, archive, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(15, "Block device required")

    monkeypatch.setattr(mounts, "mount", refuse)
    with ArchiveReader.open(archive) as reader:
        images = await ImageDirectories(unpack_bytes=0).make(reader, disk / "work")
    assert content(images) == CONTENT
    assert os.listdir(disk / "work") == ["tree"]


async def test_an_archive_without_images(disk):
    with ArchiveWriter.create(disk / "b.tar") as writer:
        writer.commit(manifest())
    with ArchiveReader.open(disk / "b.tar") as reader, pytest.raises(NotFound):
        await ImageDirectories(unpack_bytes=0).make(reader, disk / "work")


def test_removing_what_is_not_there(disk):
    remove_images(disk / "work")
    assert os.listdir(disk) == []
