"""Volumes of an image travel with their container, and into nothing else."""

import contextlib
import dataclasses
import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from crishim.archive.reader import ArchiveReader
from crishim.archive.writer import ArchiveWriter
from crishim.container import volumes
from crishim.container.volumes import ImageVolume
from crishim.dump.checks import space
from crishim.dump.ownfiles import OwnFilesDump
from crishim.errors import NoSpace, NotFound, Precondition, Unsupported
from crishim.layer.overlay import plain_overlay
from crishim.restore import compare
from crishim.restore.ownfiles import apply_volumes
from tests.unit.restore.test_compare import ARCHIVE, DATA, body, checkpoint, refusal
from tests.unit.samples import manifest

ROOT = "/var/lib/containerd/io.containerd.grpc.v1.cri/containers"
POD_VOLUME = {"destination": "/data", "source": "/srv/data", "options": ["rbind", "rw"]}


def image_volume(destination: str, source: str = f"{ROOT}/c1/volumes/4f2a") -> dict:
    return {"type": "bind", "source": source, "destination": destination, "options": ["rbind"]}


def test_volumes_are_told_by_the_container_s_own_directory():
    spec = {
        "mounts": [
            image_volume("/var/lib/db/", f"{ROOT}/c1/volumes/b"),
            image_volume("/data", f"{ROOT}/c1/volumes/a"),
            image_volume("/other", f"{ROOT}/c2/volumes/a"),
            image_volume("/deeper", f"{ROOT}/c1/volumes/a/b"),
            POD_VOLUME,
            {"destination": "/proc", "type": "proc"},
        ]
    }
    assert volumes.of_container(spec, "c1") == [
        ImageVolume(destination="/data", directory=Path(f"{ROOT}/c1/volumes/a")),
        ImageVolume(destination="/var/lib/db", directory=Path(f"{ROOT}/c1/volumes/b")),
    ]


class Source:
    """A container with a layer and one volume of its image, /data."""

    def __init__(self, path: Path) -> None:
        self.upper = path / "upper"
        self.volume = path / "containers" / "c1" / "volumes" / "4f2a"
        for directory in (self.upper, self.volume):
            directory.mkdir(parents=True)
        spec = {"mounts": [image_volume("/data", str(self.volume))]}
        self.layer = plain_overlay(self.upper)
        self.container = SimpleNamespace(id="c1", spec=spec)
        self.log = None


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path / "source")


async def dump(source: Source, target: Path, between=lambda: None) -> ArchiveReader:
    """Capture a container's files; `between` changes them before the last pass."""

    async def unnamed_file(undo):
        return unnamed(undo, target.parent)

    workspace = SimpleNamespace(unnamed_file=unnamed_file)
    async with contextlib.AsyncExitStack() as undo:
        writer = undo.enter_context(ArchiveWriter.create(target))
        files = OwnFilesDump(source, writer, pids=list)
        await files.first_pass()
        await files.catch_up()
        between()
        await files.last_pass(workspace, undo)
        files.add()
        assert files.layer_bytes > 0
        writer.commit(dataclasses.replace(manifest(), image_volumes=("/data",)))
    return ArchiveReader.open(target)


def unnamed(undo: contextlib.AsyncExitStack, directory: Path) -> int:
    file = undo.enter_context((directory / "changes").open("w+b"))
    return file.fileno()


async def test_content_comes_along_and_replaces_what_the_image_had(source, tmp_path):
    (source.upper / "layer").write_text("of the layer")
    (source.volume / "journal").write_text("one\n")
    (source.volume / "gone").write_text("")

    def change() -> None:
        (source.volume / "journal").write_text("one\ntwo\n")
        (source.volume / "gone").unlink()
        (source.volume / "sub").mkdir()
        (source.volume / "sub" / "link").symlink_to("/etc/passwd")

    target = tmp_path / "new"
    (target / "from-the-image" / "deep").mkdir(parents=True)
    (target / "from-the-image" / "deep" / "file").write_text("x")
    (target / "journal").symlink_to(tmp_path / "outside")
    with await dump(source, tmp_path / "a.tar", change) as archive:
        there = [ImageVolume(destination="/data", directory=target)]
        destinations = archive.manifest().image_volumes
        for _ in range(2):  # a preparation that failed is done again
            apply_volumes(archive, destinations, there, device_allowed=lambda *_: False)
    assert sorted(path.name for path in target.iterdir()) == ["journal", "sub"]
    assert (target / "journal").read_text() == "one\ntwo\n"
    assert (target / "sub" / "link").readlink() == Path("/etc/passwd")
    assert not (tmp_path / "outside").exists()


async def test_a_directory_that_is_a_link_is_not_followed(source, tmp_path):
    (source.volume / "journal").write_text("one\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("")
    (tmp_path / "link").symlink_to(elsewhere)
    with await dump(source, tmp_path / "a.tar") as archive:
        there = [ImageVolume(destination="/data", directory=tmp_path / "link")]
        with pytest.raises(NotFound, match="Not a directory"):
            apply_volumes(archive, ["/data"], there, device_allowed=lambda *_: False)
    assert [path.name for path in elsewhere.iterdir()] == ["kept"]


async def test_a_volume_without_a_place_is_refused(source, tmp_path):
    with (
        await dump(source, tmp_path / "a.tar") as archive,
        pytest.raises(Precondition, match="no volume at /data"),
    ):
        apply_volumes(archive, ["/data"], [], device_allowed=lambda *_: False)


@pytest.mark.parametrize("where", ["upper", "volume"])
async def test_a_device_node_that_no_restore_would_make_is_refused(source, tmp_path, where):
    try:
        os.mknod(getattr(source, where) / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(getattr(source, where) / "disk", stat.S_IFBLK | 0o600, os.makedev(254, 0))
    except PermissionError:
        pytest.skip("needs CAP_MKNOD")
    with pytest.raises(Unsupported, match=r"device node disk \(254:0\)"):
        await dump(source, tmp_path / "a.tar")
    source.container.spec["linux"] = {"devices": [{"type": "b", "major": 254, "minor": 0}]}
    (await dump(source, tmp_path / "a.tar")).close()


def test_the_estimate_counts_volumes(source, tmp_path, monkeypatch):
    (source.volume / "big").write_bytes(bytes(1 << 20))
    free = SimpleNamespace(f_bavail=(1 << 20) + (1 << 19), f_frsize=1)
    monkeypatch.setattr(space.os, "statvfs", lambda _: free)
    with pytest.raises(NoSpace):
        space.check(source, [], tmp_path / "a.tar")


def test_the_same_image_fits():
    source = dataclasses.replace(checkpoint(), image_volumes=("/data",))
    compare.check(body(mounts=[image_volume("/data")]), source, ARCHIVE)


def test_a_volume_of_the_pod_is_not_written_over():
    source = dataclasses.replace(checkpoint(), image_volumes=("/data", "/var/lib/db"))
    error = refusal(body(mounts=[DATA]), source)
    assert "volumes of the image that the container has not: /data, /var/lib/db" in str(error)


def test_a_lost_volume_is_not_taken_for_an_empty_one():
    """The pod had a volume there, or the archive is older than the content of such volumes."""
    error = refusal(body(mounts=[image_volume("/data")]), checkpoint())
    assert "does not hold what its container had at /data" in str(error)
    assert "give it a volume of the pod there" in error.hint
    compare.check(body(mounts=[DATA]), checkpoint(), ARCHIVE)  # the cure
