"""Records of stopped containers outlive a disk that fails once, a power cut, a second request."""

import asyncio
import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from crishim.errors import Busy, Corrupt
from crishim.kernel import atomic
from crishim.network import hold, neighbours
from crishim.paths import Paths
from crishim.sandbox import heldprocesses
from crishim.sandbox.held import HeldSandboxes
from crishim.sandbox.heldrecord import HeldState, Waits, this_boot
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
    return HeldSandboxes(Paths(state=tmp_path / "state", run=tmp_path / "run"), None)


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
    work = tmp_path / "state" / "dumps" / record.containers[0].id
    work.mkdir(parents=True)
    (work / "half").touch()
    held.records._files.write(record.sandbox, record)
    held.records.load()
    await held.decide(record.sandbox)
    assert held.records.of_container(record.containers[0].id) is not None


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
        waits=Waits.AT_NODE,
    )
    held.records._files.write(record.sandbox, dataclasses.replace(record, reservations=""))
    held.records.load()
    monkeypatch.setattr(atomic, "fsync_dir", sync)
    await (held.decide if end == "it goes on" else held.connections.hand_over)(record.sandbox)
    assert held.records.all() == []
    assert synced == [[]]


async def test_a_container_that_was_stopped_meanwhile_is_not_stopped_again(held, tmp_path):
    record = held_record(archive=str(tmp_path / "a.tar"))
    held.committed(record, record.containers[0].id)
    source = SimpleNamespace(sandbox=SimpleNamespace(id=record.sandbox))
    with pytest.raises(Busy, match="stopped by a checkpoint already"):
        await held.announce(source.sandbox, record.containers, None, ())


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
    node_hold = hold.NodeHold.record_of(record.sandbox)
    record = dataclasses.replace(
        record.all_changed(state=HeldState.ENDED), waits=Waits.AT_NODE, reservations=""
    )
    held.records._files.write(record.sandbox, record)
    held.records.load()
    held.records.put(record)
    tables.there.add(node_hold.table)
    steps = {
        "hand_over": lambda: held.connections.hand_over(record.sandbox),
        "restore_node_hold": lambda: held.connections.restore_node_hold(record.sandbox),
        "sweep": lambda: held.sweep([], wait_s=1e9),
    }
    works = [asyncio.ensure_future(steps.pop(first)())]
    await tables.until_asked()
    works += [asyncio.ensure_future(step()) for step in steps.values()]
    for _ in range(5):
        await asyncio.sleep(0)
    tables.may_go_on.set()
    await asyncio.gather(*works)
    assert held.records.of_sandbox(record.sandbox) is None
    assert tables.there == set()


@pytest.mark.parametrize("sandbox", ["there", "gone"])
async def test_connections_that_have_gone_on_are_left_alone_though_the_rest_fails(
    held, monkeypatch, sandbox
):
    """host-local's lock is taken, the source's pod goes, and everything is looked after."""
    tables = Tables(monkeypatch)
    tables.may_go_on.set()
    record = held_record(archive="/a", boot_id=this_boot())
    record = dataclasses.replace(
        record.all_changed(state=HeldState.ENDED),
        waits=Waits.AT_NODE if sandbox == "gone" else Waits.IN_POD,
    )
    held.records._files.write(record.sandbox, record)
    held.records.load()
    held.records.put(record)

    def taken(*_, **__):
        raise Busy("host-local holds its lock")

    with monkeypatch.context() as patch:
        patch.setattr("crishim.network.reservation.release", taken)
        with pytest.raises(Busy):
            await held.connections.hand_over(record.sandbox)
        await held.sandbox_stops(record.sandbox)
        with pytest.raises(Busy):
            await held.sweep([], wait_s=1e9)
    assert tables.there == set()
    monkeypatch.setattr("crishim.network.reservation.release", lambda *_, **__: None)
    await held.sweep([], wait_s=1e9)
    assert held.records.of_sandbox(record.sandbox) is None
    assert tables.there == set()


async def test_a_restore_waits_for_no_source_that_is_being_ended(held):
    """It has no hold of the node to lift, and clients wait for it."""
    record = held_record(archive="/a", boot_id=this_boot(), state=HeldState.ENDED)
    held.records._files.write(record.sandbox, record)
    held.records.load()
    async with held.records.locked(record.sandbox), asyncio.timeout(5):
        await held.connections.lift_node_hold(record.sandbox)


@pytest.fixture
def pod(held, tmp_path, monkeypatch):
    """Two containers of a pod whose dumps were announced together; the next daemon has read it."""
    ended = []

    async def wait_ended(container):
        ended.append(container)

    monkeypatch.setattr(HeldSandboxes, "_wait_ended", lambda _, container: wait_ended(container))
    for name in ("thaw", "kill"):
        monkeypatch.setattr(
            heldprocesses, name, lambda item, name=name: done.append((name, item.id))
        )
    monkeypatch.setattr(heldprocesses, "run", lambda _: False)
    done = []
    first = held_record(archive=str(tmp_path / "a.tar"), boot_id=this_boot(), kubelet=False)
    [container] = first.containers
    second = dataclasses.replace(container, id="c1", archive=str(tmp_path / "b.tar"))
    record = dataclasses.replace(first, containers=(container, second), reservations="")
    return SimpleNamespace(record=record, done=done, ended=ended, held=held)


def files_of(pod, *, whole):
    """Make the archives of a pod's containers; those that are not whole are half."""
    containers = []
    for item in pod.record.containers:
        archive = Path(item.archive)
        path = (
            archive if item.id in whole else archive.with_name(f".{archive.name}.0123abcd.partial")
        )
        path.write_text(item.id)
        containers.append(dataclasses.replace(item, inode=path.stat().st_ino))
    pod.record = dataclasses.replace(pod.record, containers=tuple(containers))


async def test_two_containers_of_a_pod_are_announced_at_once_and_committed_one_by_one(pod):
    record, held = pod.record, pod.held
    sandbox = SimpleNamespace(id=record.sandbox, netns=record.netns)
    announced = await held.announce(sandbox, record.containers, None, record.interfaces)
    assert held.records.of_sandbox(record.sandbox) is None  # nothing counts yet
    held.committed(announced, "c1")
    states = {item.id: item.state for item in held.records.get(record.sandbox).containers}
    assert states == {"c0": HeldState.ANNOUNCED, "c1": HeldState.FROZEN}
    held.committed(announced, "c0")
    assert held.records.undecided == []
    assert held.records.of_container("c0")[1].archive != held.records.of_container("c1")[1].archive
    await held.end("c1")
    assert pod.done == [("kill", "c1")] and pod.ended == ["c1"]
    later = HeldSandboxes(held._paths, None)
    later.records.load()
    states = {item.id: item.state for item in later.records.get(record.sandbox).containers}
    assert states == {"c0": HeldState.ANNOUNCED, "c1": HeldState.ENDED}  # what is frozen is asked


async def test_the_next_daemon_ends_each_container_of_a_pod_whose_archives_are_whole(pod):
    files_of(pod, whole={"c0", "c1"})
    pod.held.records._files.write(pod.record.sandbox, pod.record)
    pod.held.records.load()
    await pod.held.decide(pod.record.sandbox)
    await pod.held.finish(pod.record.sandbox)
    assert pod.done == [("kill", "c0"), ("kill", "c1")] and pod.ended == ["c0", "c1"]
    assert pod.held.records.unended == []


async def test_a_container_whose_archive_never_appeared_goes_on_and_the_pod_stays_held(pod):
    """The other one's connections wait behind the hold, which is the pod's."""
    files_of(pod, whole={"c1"})
    pod.held.records._files.write(pod.record.sandbox, pod.record)
    pod.held.records.load()
    await pod.held.decide(pod.record.sandbox)
    assert pod.done == [("thaw", "c0")]
    left = pod.held.records.get(pod.record.sandbox)
    assert [item.id for item in left.containers] == ["c1"] and left.waiting
    assert pod.held.records.of_container("c0") is None
    later = HeldSandboxes(pod.held._paths, None)
    later.records.load()
    assert [item.id for item in later.records.get(left.sandbox).containers] == ["c1"]


async def test_a_stop_of_the_sandbox_tries_to_end_each_container(pod, monkeypatch):
    held, record = pod.held, pod.record
    held.records.put(record.all_changed(state=HeldState.FROZEN))

    def kill(item):
        pod.done.append(item.id)
        raise OSError("its cgroup cannot be read")

    monkeypatch.setattr(heldprocesses, "kill", kill)
    with pytest.raises(OSError, match="its cgroup"):
        await held.sandbox_stops(record.sandbox)
    assert sorted(pod.done) == ["c0", "c1"]
    assert held.records.get(record.sandbox).waits is Waits.AT_NODE
