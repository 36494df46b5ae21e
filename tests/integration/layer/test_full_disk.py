"""A disk that is really full: one error, nothing left, and CRIU is never blocked."""

import errno
import os
from pathlib import Path

import pytest

from crishim.archive.reader import ArchiveReader
from crishim.archive.writer import ArchiveWriter
from crishim.dump.fifo import FifoReceiver
from crishim.errors import NoSpace
from crishim.kernel import mounts
from crishim.layer.apply import apply_layer
from crishim.layer.capture import LayerCapture
from crishim.layer.members import MEMBERS
from tests.integration.layer.conftest import OverlayRoot
from tests.unit.dump.test_fifo import Criu, page_image
from tests.unit.samples import manifest


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "small"
    disk.mkdir()
    mounts.mount("tmpfs", disk, fs_type="tmpfs", data="size=4m")
    yield disk
    mounts.umount(disk)


async def test_memory_larger_than_the_disk(small_disk, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    with ArchiveWriter.create(small_disk / "a.tar") as writer:
        async with FifoReceiver(writer, images, count=3) as receiver:
            criu = Criu(lambda: page_image(images, 1, bytes(20 << 20))).ended()
            with pytest.raises(NoSpace, match="memory of the container"):
                await receiver.finish()
        assert criu.error is not None
        assert criu.error.errno == errno.EPIPE
    assert os.listdir(small_disk) == []
    assert os.listdir(images) == []


def test_space_is_missed_before_the_pause(small_disk):
    with ArchiveWriter.create(small_disk / "a.tar") as writer, pytest.raises(NoSpace):
        writer.prepare(20 << 20)
    assert os.listdir(small_disk) == []


def test_layer_larger_than_the_disk(source: OverlayRoot, small_disk: Path):
    with source.mounted() as root:
        (root / "large").write_bytes(bytes(range(256)) * (8 << 12))
        with ArchiveWriter.create(small_disk / "a.tar") as writer, pytest.raises(NoSpace):
            LayerCapture(source.overlay).first_pass(writer.fd, writer.begin_member(MEMBERS[0]))
    assert os.listdir(small_disk) == []


def test_restored_layer_larger_than_the_disk(source: OverlayRoot, small_disk: Path, tmp_path):
    with source.mounted() as root, ArchiveWriter.create(tmp_path / "a.tar") as writer:
        (root / "large").write_bytes(bytes(range(256)) * (8 << 12))
        capture = LayerCapture(source.overlay)
        writer.end_member(capture.first_pass(writer.fd, writer.begin_member(MEMBERS[0])))
        writer.commit(manifest())
    overlay = mounts.overlay_from_options([f"upperdir={small_disk}", "workdir=/w", "lowerdir=/l"])
    with (
        ArchiveReader.open(tmp_path / "a.tar", trusted_owner=False) as archive,
        pytest.raises(NoSpace),
    ):
        apply_layer(archive, overlay, device_allowed=lambda *_: False)
