"""Records of stopped containers outlive a disk that fails once, a power cut, a second request."""

import asyncio
import dataclasses
import os
from types import SimpleNamespace

import pytest

from crishim.errors import Busy, Corrupt
from crishim.kernel import atomic
from crishim.network import hold, neighbours
from crishim.paths import Paths
from crishim.sandbox import heldprocesses
from crishim.sandbox.held import Held
from crishim.sandbox.heldrecord import this_boot
from crishim.sandbox.recordfiles import RecordFiles
from tests.unit.samples import held_record


def decode(data):
    if data == b"{":
        raise Corrupt("not a record")
    return data


@pytest.fixture
def files(tmp_path):
    codec = SimpleNamespace(encode=bytes, decode=decode)
    return RecordFiles(tmp_path, lambda sandbox: tmp_path / f"{sandbox}.json", codec=codec)


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


@pytest.mark.parametrize("end", ["it goes on", "somebody restores it"])
async def test_no_power_cut_brings_back_a_record_whose_connections_waited(
    held, tmp_path, monkeypatch, end
):
    """The node would drop what comes to an address that others may have by then."""
    fsync_dir, synced = atomic.fsync_dir, []

    def sync(path):
        synced.append(sorted(os.listdir(path)))
        fsync_dir(path)

    monkeypatch.setattr(heldprocesses, "thaw", lambda _: None)
    half = tmp_path / ".a.tar.0123abcd.partial"
    half.touch()
    record = held_record(
        archive=str(tmp_path / "a.tar"),
        inode=half.stat().st_ino,
        boot_id=this_boot(),
        node_hold=hold.HoldRecord(netns="", family="inet", table="crishim_hold_node_5a"),
    )
    held._files.write(record.sandbox, dataclasses.replace(record, reservations=""))
    held.load()
    monkeypatch.setattr(atomic, "fsync_dir", sync)
    await (held.decide if end == "it goes on" else held.hand_over)(record.sandbox)
    assert held.records() == []
    assert synced == [[]]


async def test_a_container_that_was_stopped_meanwhile_is_not_stopped_again(held, tmp_path):
    record = held_record(archive=str(tmp_path / "a.tar"))
    held.committed(record)
    source = SimpleNamespace(sandbox=SimpleNamespace(id=record.sandbox))
    with pytest.raises(Busy, match="stopped by a checkpoint already"):
        await held.keep(source, None, (), archive=tmp_path / "b.tar", inode=1)


class Tables:
    """The node's tables; whoever works on them is held up until it may go on."""

    def __init__(self, monkeypatch):
        self.there, self.asked, self.may_go_on = set(), [], asyncio.Event()
        monkeypatch.setattr(hold, "remove", self.remove)
        monkeypatch.setattr(hold.NodeHold, "close", lambda node: self.close(node.record))
        monkeypatch.setattr("crishim.network.neighbours.loosen", self.loosen)

    async def close(self, record):
        self.asked.append("close")
        await self.may_go_on.wait()
        self.there.add(record.table)

    async def remove(self, record):
        self.asked.append("remove")
        await self.may_go_on.wait()
        self.there.discard(record.table)

    async def loosen(self, _):
        """Need no netlink."""

    async def until_asked(self):
        while not self.asked:
            await asyncio.sleep(0)


@pytest.mark.parametrize("first", ["hand_over", "restore_node_hold", "sweep"])
async def test_the_node_drops_nothing_once_connections_have_gone_on(held, monkeypatch, first):
    tables = Tables(monkeypatch)
    record = held_record(archive="/a", boot_id=this_boot())
    node_hold = hold.NodeHold(record.waiting, key=record.sandbox[:12]).record
    record = dataclasses.replace(record, node_hold=node_hold, reservations="", frozen=False)
    held._files.write(record.sandbox, record)
    held.load()
    held.committed(record)
    tables.there.add(node_hold.table)
    steps = {
        "hand_over": lambda: held.hand_over(record.sandbox),
        "restore_node_hold": lambda: held.restore_node_hold(record.sandbox),
        "sweep": lambda: held.sweep([], wait_s=1e9),
    }
    works = [asyncio.ensure_future(steps.pop(first)())]
    await tables.until_asked()
    works += [asyncio.ensure_future(step()) for step in steps.values()]
    for _ in range(5):
        await asyncio.sleep(0)
    tables.may_go_on.set()
    await asyncio.gather(*works)
    assert held.of_sandbox(record.sandbox) is None
    assert tables.there == set()


@pytest.mark.parametrize("sandbox", ["there", "gone"])
async def test_connections_that_have_gone_on_are_left_alone_though_the_rest_fails(
    held, monkeypatch, sandbox
):
    """host-local's lock is taken, the source's pod goes, and everything is looked after."""
    tables = Tables(monkeypatch)
    tables.may_go_on.set()
    record = held_record(archive="/a", boot_id=this_boot())
    node_hold = hold.NodeHold(record.waiting, key=record.sandbox[:12]).record
    record = dataclasses.replace(
        record, node_hold=node_hold if sandbox == "gone" else None, frozen=False
    )
    held._files.write(record.sandbox, record)
    held.load()
    held.committed(record)

    def taken(*_, **__):
        raise Busy("host-local holds its lock")

    with monkeypatch.context() as patch:
        patch.setattr("crishim.network.reservation.release", taken)
        with pytest.raises(Busy):
            await held.hand_over(record.sandbox)
        await held.sandbox_stops(record.sandbox)
        with pytest.raises(Busy):
            await held.sweep([], wait_s=1e9)
    assert tables.there == set()
    monkeypatch.setattr("crishim.network.reservation.release", lambda *_, **__: None)
    await held.sweep([], wait_s=1e9)
    assert held.of_sandbox(record.sandbox) is None
    assert tables.there == set()


async def test_a_restore_waits_for_no_source_that_is_being_ended(held):
    """It has no hold of the node to lift, and clients wait for it."""
    record = dataclasses.replace(held_record(archive="/a", boot_id=this_boot()), frozen=False)
    held._files.write(record.sandbox, record)
    held.load()
    async with held._lock(record.sandbox), asyncio.timeout(5):
        await held.lift_node_hold(record.sandbox)
