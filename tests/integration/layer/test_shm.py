"""Shared memory of a pod travels in an archive to another pod."""

import contextlib
import os
from pathlib import Path

import pytest

from crishim.archive.reader import ArchiveReader
from crishim.archive.writer import ArchiveWriter
from crishim.container import shm
from crishim.dump.shm import SharedMemoryDump
from crishim.dump.workspace import Workspace
from crishim.errors import Unsupported
from crishim.restore.shm import apply_shared_memory
from tests.unit.samples import manifest


def spec(source: Path) -> dict:
    return {"mounts": [{"destination": "/dev/shm", "type": "bind", "source": str(source)}]}


@pytest.fixture
def pods(tmp_path):
    """Two empty directories."""
    found = tmp_path / "one", tmp_path / "two"
    for path in found:
        path.mkdir(mode=0o1777)
    return found


async def travel(
    one: Path, two: Path, work: Path, *, shared: bool = False, links: dict[str, int] | None = None
) -> bool:
    """Copy, archive, apply; return whether the archive has the member.

    Args: links: that CRIU has made and removed again.
    """
    archive = work / "a.tar"
    async with contextlib.AsyncExitStack() as undo:
        dump = SharedMemoryDump(spec(one))
        await dump.copy(Workspace(work, work), undo)
        await dump.add_links({one: links or {}})
        with ArchiveWriter.create(archive) as writer:
            dump.add(writer)
            writer.commit(manifest())
    with ArchiveReader.open(archive, trusted_owner=False) as reader:
        apply_shared_memory(reader, spec(two), shared=shared)
        return shm.MEMBER in reader.members


async def test_files_arrive_as_they_were(pods, tmp_path):
    one, two = pods
    (one / "segment").write_bytes(b"x" * 100_000)
    os.chown(one / "segment", 1000, 1001)
    (one / "segment").chmod(0o640)
    with open(one / "holes", "wb") as file:
        file.truncate(1 << 30)
    os.link(one / "segment", one / "again")
    assert await travel(one, two, tmp_path)
    status = (two / "segment").stat()
    assert (two / "segment").read_bytes() == b"x" * 100_000
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (1000, 1001, 0o640)
    assert (two / "again").stat().st_ino == status.st_ino
    assert (two / "holes").stat().st_size == 1 << 30
    assert (two / "holes").stat().st_blocks == 0


async def test_nothing_is_written_for_nothing(pods, tmp_path):
    assert not await travel(*pods, tmp_path)


@pytest.mark.parametrize("shared", [True, False])
async def test_what_running_containers_share_stays(pods, tmp_path, shared):
    one, two = pods
    (one / "mine").write_text("old")
    (one / "only").write_text("old")
    (two / "mine").write_text("live")
    await travel(one, two, tmp_path, shared=shared)
    assert (two / "mine").read_text() == ("live" if shared else "old")
    assert (two / "only").read_text() == "old"


@pytest.mark.parametrize("shared", [True, False])
async def test_a_link_of_criu_s_leads_to_the_file_that_has_a_name(pods, tmp_path, shared):
    """As of a named semaphore; whatever an earlier restore has left under the link's name."""
    one, two = pods
    (one / "sem.x").write_text("semaphore")
    (two / "link_remap.5").write_text("left by a restore that failed")
    links = {"link_remap.5": (one / "sem.x").stat().st_ino}
    await travel(one, two, tmp_path, shared=shared, links=links)
    assert (two / "link_remap.5").read_text() == "semaphore"
    assert (two / "link_remap.5").samefile(two / "sem.x")


async def test_a_link_to_a_file_without_any_name_is_refused(pods, tmp_path):
    one, two = pods
    for content in ((), ("other",)):
        for name in content:
            (one / name).touch()
        with pytest.raises(Unsupported, match="no name"):
            await travel(one, two, tmp_path, links={"link_remap.5": 12345678})


def test_the_node_s_own_is_nobody_s(tmp_path):
    assert shm.directory(spec(Path("/dev/shm"))) is None
    assert shm.directory({"mounts": None}) is None
    assert shm.directory(spec(tmp_path)) == tmp_path
