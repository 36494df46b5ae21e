"""Records of stopped containers outlive a disk that fails once, a power cut, a second request."""

import os
from types import SimpleNamespace

import pytest

from crishim.checkpoint import hold, neighbours
from crishim.checkpoint.held import Held
from crishim.checkpoint.recordfiles import RecordFiles
from crishim.errors import Busy, Corrupt
from crishim.paths import Paths
from tests.unit.checkpoint.samples import held_record


def decode(data):
    if data == b"{":
        raise Corrupt("not a record")
    return data


@pytest.fixture
def files(tmp_path):
    return RecordFiles(tmp_path, lambda sandbox: tmp_path / f"{sandbox}.json", encode=bytes,
                       decode=decode)  # fmt: skip


def test_a_record_that_the_disk_did_not_give_is_kept_though_its_pod_is_gone(files, tmp_path):
    (tmp_path / "5a.json").mkdir()  # it cannot be read, and may be whole
    (tmp_path / "5b.json").write_bytes(b"{")
    assert files.read() == {}
    files.keep_unreadable(live=())
    assert files.unreadable == {"5a"}
    assert sorted(os.listdir(tmp_path)) == ["5a.json", "5b.json.damaged"]


@pytest.fixture
def held(tmp_path, monkeypatch):
    """Stopped containers, on a node whose network nobody looks at."""

    async def nothing(*_):
        pass

    monkeypatch.setattr(hold.NodeHold, "close", nothing)
    monkeypatch.setattr(hold, "remove", nothing)
    monkeypatch.setattr(neighbours, "loosen", nothing)
    return Held(Paths(state=tmp_path / "state", run=tmp_path / "run"), None)


async def test_a_note_that_a_power_cut_has_brought_back_undoes_no_stop(held, tmp_path):
    """Its removal is not durable; the archive is."""
    archive = tmp_path / "a.tar"
    archive.write_bytes(b"whole")
    status = archive.stat()
    record = held_record(
        archive=str(archive),
        inode=status.st_ino,
        device=status.st_dev,
        boot_id="another boot",
    )
    work = tmp_path / "state" / "dumps" / record.container
    work.mkdir(parents=True)
    (work / "half").touch()
    held._files.write(record.sandbox, record)
    held.load()
    await held.decide(record.sandbox)
    assert held.of_container(record.container) is not None


async def test_a_container_that_was_stopped_meanwhile_is_not_stopped_again(held, tmp_path):
    record = held_record(archive=str(tmp_path / "a.tar"))
    held.committed(record)
    source = SimpleNamespace(sandbox=SimpleNamespace(id=record.sandbox))
    with pytest.raises(Busy, match="stopped by a checkpoint already"):
        await held.keep(source, None, (), archive=tmp_path / "b.tar", inode=1)
