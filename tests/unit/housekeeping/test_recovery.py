"""A start with whatever is found on disk: it serves, and what is right is done all the same."""

import asyncio
import contextlib
import errno
import json
import os
import pathlib
import threading
import time
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest

from crishim._proto.runtime.v1 import api_pb2
from crishim.aio import patience
from crishim.errors import (
    Busy,
    Corrupt,
    DeadlineExceeded,
    Precondition,
    RuntimeNotFound,
    RuntimeRefused,
    ToolFailed,
)
from crishim.flow.locks import Locks
from crishim.housekeeping.recovery import Recovery
from crishim.kernel import mounts, tree
from crishim.network import hold, neighbours
from crishim.network.keeping import Policy
from crishim.paths import Paths
from crishim.sandbox import evidence
from crishim.sandbox.addresses import PreservedAddresses
from crishim.sandbox.held import HeldSandboxes
from crishim.sandbox.heldrecord import CODEC, HeldState, Waits, this_boot
from crishim.tools.runc import Runc
from tests.unit.samples import CONTAINER, held_record, plan

pytestmark = pytest.mark.usefixtures("kernel")


@pytest.fixture
def kernel(monkeypatch):
    """The node's network, as far as nobody looks: which holds were removed, which neighbours."""
    seen = SimpleNamespace(removed=[], loosened=[], dropped=[])

    async def remove(record):
        seen.removed.append(record.table)

    async def loosen(addresses):
        seen.loosened += addresses

    async def drop(node_hold):
        seen.dropped.append(node_hold.record.table)

    monkeypatch.setattr(hold.NodeHold, "close", drop)
    monkeypatch.setattr(hold, "remove", remove)
    monkeypatch.setattr(neighbours, "loosen", loosen)
    monkeypatch.setattr(neighbours, "sweep", lambda **_: None)
    monkeypatch.setattr(patience, "PATIENCE_S", 0.5)
    return seen


class Node:
    """A state directory, and a daemon that starts on it."""

    def __init__(self, path):
        self.path = path
        self.paths = Paths(state=path / "state", run=path / "run")
        for directory in (self.paths.dumps, self.paths.held, self.paths.store):
            directory.mkdir(parents=True)
        self.again()

    def again(self):
        """Make the daemon anew, as its next start does."""
        self.locks = Locks()
        self.held = HeldSandboxes(self.paths, None)
        self.sandboxes = PreservedAddresses(
            cri=None,
            paths=self.paths,
            held=self.held,
            recovered=self.locks.recovered,
            keeps=Policy(unmanaged=True),
        )
        self.recovery = Recovery(
            paths=self.paths, cri=None, records=None, held=self.held, addresses=self.sandboxes,
            resolver=None, leftovers=None, reviver=None, pins=None, locks=self.locks,
            connections_wait_s=60,
        )  # fmt: skip

    async def start(self):
        self.recovery.load()
        await self.recovery.begin()

    def dump(self, container="d1", *, archive_directory=None):
        """A container that a dump has left frozen; return its cgroup."""
        work, cgroup = self.paths.dumps / container, self.path / f"cgroup-{container}"
        work.mkdir()
        cgroup.mkdir()
        (cgroup / "cgroup.freeze").write_text("1")
        (cgroup / "cgroup.events").write_text("populated 1\nfrozen 1\n")
        (cgroup / "cgroup.procs").write_text("1\n")
        (work / "freezer").write_text(str(cgroup))
        (work / "directory").write_text(str(archive_directory or self.paths.store))
        return cgroup

    def stopped(self, container="d1", **changes):
        """A record of a container that a dump was to stop; return its half archive."""
        half = self.path / ".a.tar.0123abcd.partial"
        half.write_text("half")
        runc = self.path / "runc" / container
        runc.mkdir(parents=True)
        cgroup = str(self.path / f"cgroup-{container}")
        now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        (runc / "state.json").write_text(json.dumps({"cgroup_paths": {"": cgroup}}))
        own = {key: changes.pop(key) for key in CONTAINER if key in changes}
        record = held_record(
            archive=str(self.path / "a.tar"), id=container, inode=half.stat().st_ino,
            runc=Runc(binary="runc", root=runc.parent, systemd_cgroup=False),
            boot_id=this_boot(), stopped_at_boot_ns=now_ns,
        )  # fmt: skip
        pod_hold = hold.HoldRecord(netns="/nowhere", family="netdev", table="crishim_hold_1")
        record = replace(record.all_changed(**own), pod_hold=pod_hold, reservations="")
        record = replace(record, **changes)
        (self.paths.held / f"{record.sandbox}.json").write_bytes(CODEC.encode(record))
        return half


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path)


def frozen(cgroup):
    return (cgroup / "cgroup.freeze").read_text()[0] == "1"


def test_nothing_on_disk_keeps_the_daemon_from_serving(node, monkeypatch):
    """Each of these did: it is said, and the node has its socket."""
    (node.paths.dumps / "stray").write_text("x")
    (node.paths.held / "5a.json").write_bytes(b"\xff\xfe")
    (node.paths.held / "5b.json").mkdir()
    (node.paths.held / "..json").write_text("{}")
    (node.paths.state / "restores").write_text("no directory")
    (node.paths.state / "sandboxes").write_text("no directory")
    refuse = PermissionError("netlink")
    monkeypatch.setattr(neighbours, "sweep", lambda **_: (_ for _ in ()).throw(refuse))
    node.recovery.load()


def test_an_unreadable_record_still_says_which_pod_is_cut_off(node):
    """Taken for no record, its frozen container would be dumped again and then thawed."""
    (node.paths.held / "5a.json").write_text("{")
    for _ in range(2):  # it is set aside at the first start, and not forgotten at the second
        node.again()
        node.recovery.load()
        assert "5a" in node.held.records.sandboxes()
        with pytest.raises(Precondition, match="its record is damaged"):
            node.held.records.of_sandbox("5a")
    assert (node.paths.held / "5a.json.damaged").exists()


async def test_one_odd_dump_does_not_keep_another_frozen(node, monkeypatch):
    """A stray file, a note that is no UTF-8, a live mount below a dump's directory."""
    (node.paths.dumps / "stray").write_text("x")
    (node.paths.dumps / "a").mkdir()
    (node.paths.dumps / "a" / "directory").write_bytes(b"/nowhere/\xff\xfe")
    mounted = node.dump("b")
    good = node.dump("c")
    found = mounts.read_mounts()
    live = replace(found[0], mount_point=str(node.paths.dumps / "b" / "images"))
    monkeypatch.setattr(tree, "read_mounts", lambda: [*found, live])
    await node.start()
    assert not frozen(mounted)
    assert not frozen(good)
    assert sorted(os.listdir(node.paths.dumps)) == ["b", "stray"]


async def test_a_dead_directory_of_archives_holds_up_nobody(node, monkeypatch):
    """Whoever asks a dead NFS server hangs; the containers of the node are thawed all the same."""
    dead, answer = node.path / "dead", threading.Event()
    listdir = os.listdir
    monkeypatch.setattr(patience, "PATIENCE_S", 0.05)
    monkeypatch.setattr(
        "os.listdir", lambda path=".": answer.wait() if path == dead else listdir(path)
    )
    dead.mkdir()
    first, second = node.dump("a", archive_directory=dead), node.dump("b")
    try:
        async with asyncio.timeout(5):
            await node.start()
    finally:
        answer.set()
    assert not frozen(first)
    assert not frozen(second)
    assert sorted(listdir(node.paths.dumps)) == ["a"]  # looked at again later


async def test_a_dump_that_was_to_stop_and_did_not_leaves_a_pod_with_a_network(node, kernel):
    """Daemon and guardian died: the container goes on, and its hold goes before its record."""
    cgroup, half = node.dump(), node.stopped()
    await node.start()
    assert not frozen(cgroup)
    assert kernel.removed == ["crishim_hold_1"]
    assert node.held.records.sandboxes() == []
    assert list(node.paths.held.iterdir()) == []
    assert half.exists()  # it lies in no directory that was noted


async def test_a_hold_that_cannot_be_removed_is_tried_again(node, monkeypatch):
    async def refuse(record):
        raise ToolFailed("nft", 1)

    node.dump()
    node.stopped()
    removed = hold.remove
    monkeypatch.setattr(hold, "remove", refuse)
    await node.start()
    assert node.held.records.sandboxes() != []
    assert node.recovery.restless
    monkeypatch.setattr(hold, "remove", removed)
    await node.recovery.begin()
    assert node.held.records.sandboxes() == []


async def test_a_whole_archive_keeps_its_source_frozen(node, kernel):
    cgroup, half = node.dump(), node.stopped()
    half.rename(node.path / "a.tar")
    await node.start()
    assert frozen(cgroup)
    assert kernel.removed == []
    assert node.held.records.of_container("d1") is not None
    assert list(node.paths.dumps.iterdir()) == []


async def test_an_archive_that_was_moved_away_is_no_reason_to_thaw(node, kernel):
    """It would be a second live copy; nobody knows, so the container stays as it is."""
    cgroup, half = node.dump(), node.stopped()
    half.unlink()
    await node.start()
    assert frozen(cgroup)
    assert kernel.removed == []
    assert node.held.records.of_container("d1") is not None
    assert node.held.records.undecided


async def test_a_container_that_runs_was_let_go_on_by_its_guardian(node, kernel):
    cgroup, half = node.dump(), node.stopped()
    half.unlink()
    (cgroup / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    await node.start()
    assert kernel.removed == ["crishim_hold_1"]
    assert node.held.records.sandboxes() == []


async def test_calls_wait_for_what_is_not_in_order_yet(node):
    node.dump("d2")
    node.stopped("d1")
    node.recovery.load()
    for identity in ("d1", "d2", "5a"):
        with pytest.raises(Exception, match="still being put in order"):
            await node.locks.recovered.wait(identity, timeout_s=0)
    await node.locks.recovered.wait("somebody else", timeout_s=0)


async def test_a_criu_that_nobody_reads_any_more_ends_before_its_container_goes_on(node):
    """Its guardian was killed with the daemon: thawed meanwhile, it would never answer again."""
    cgroup = node.dump()
    work = node.paths.dumps / "d1"
    (work / "images").mkdir()
    pages = work / "images" / "pages-1.img"
    os.mkfifo(pages)
    # As CRIU: its name, the directory among its words, and a FIFO that blocks until it is read.
    tool = node.path / "criu"
    tool.write_text(
        f"#!/bin/sh\ntrap '' PIPE\necho > {pages}\ncat {cgroup}/cgroup.freeze > {node.path}/seen\n"
    )
    tool.chmod(0o755)
    process = await asyncio.create_subprocess_exec(tool, "dump", "--work-path", str(work))
    async with asyncio.timeout(5):
        await node.start()
        await process.wait()
    assert (node.path / "seen").read_text() == "1"  # it was frozen as long as CRIU was at it
    assert not frozen(cgroup)
    assert list(node.paths.dumps.iterdir()) == []


async def test_a_reboot_lets_connections_wait_on_behind_a_hold_of_the_node(node, kernel):
    """It has ended the pod, its hold and the clock that the waiting was counted by."""
    node.stopped(boot_id="an earlier one", stopped_at_boot_ns=1 << 62).rename(node.path / "a.tar")
    await node.start()
    (record,) = node.held.records.all()
    assert kernel.dropped == ["crishim_hold_node_5a"]
    assert not record.containers[0].frozen
    assert record.boot_id == this_boot()
    assert record.waited_s < 60
    assert record.waiting
    node.again()
    node.held.records.load()
    assert node.held.records.all() == [record]


async def test_a_record_of_another_boot_that_is_read_late_waits_as_others_do(node, kernel):
    """Counted by the other boot's clock it was let go, or held for ever, and nothing dropped."""
    node.stopped(boot_id="an earlier one", stopped_at_boot_ns=0, state=HeldState.ENDED)
    record = node.paths.held / "5a.json"
    record.rename(node.path / "refused")
    record.mkdir()
    await node.start()
    record.rmdir()
    (node.path / "refused").rename(record)
    node.held.records.load_refused()
    await node.held.sweep(["5a"], wait_s=1)
    (read,) = node.held.records.all()
    assert read.waiting and read.boot_id == this_boot()
    assert set(kernel.dropped) == {"crishim_hold_node_5a"}


async def test_rules_of_the_node_that_somebody_flushed_are_set_again(node, kernel):
    node.stopped(waits=Waits.AT_NODE, state=HeldState.ENDED).rename(node.path / "a.tar")
    await node.start()
    await node.held.sweep([], wait_s=1e9)  # the machine may have been up for long
    assert kernel.dropped == ["crishim_hold_node_5a"]


async def test_one_record_that_cannot_be_let_go_does_not_keep_the_others(node, monkeypatch):
    """host-local holds its lock: the next sweep tries again, and the record is still there."""
    for number in range(2):
        node.stopped(
            f"d{number}", sandbox=f"5{number}", state=HeldState.ENDED, stopped_at_boot_ns=0
        )
    await node.start()
    given_up = []

    async def give_up(sandbox, why):
        given_up.append(sandbox)
        if sandbox == "50":
            raise Busy("host-local holds its lock")

    monkeypatch.setattr(node.held.connections, "give_up", give_up)
    with pytest.raises(Busy):
        await node.held.sweep(["50", "51"], wait_s=1)
    assert given_up == ["50", "51"]


@pytest.mark.parametrize("failing", ["end", "write"])
async def test_the_node_drops_whatever_fails_before(node, kernel, monkeypatch, failing):
    """containerd does not notice the end, or the disk is full: the sandbox goes all the same."""

    async def too_late(_):
        raise DeadlineExceeded("containerd still calls it running")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    node.stopped(state=HeldState.ENDED)
    node.held.records.load()
    if failing == "end":
        monkeypatch.setattr(node.held, "end", too_late)
    else:
        monkeypatch.setattr(node.held.records._files, "write", full)
    with pytest.raises((DeadlineExceeded, OSError)):
        await node.held.sandbox_stops("5a")
    assert kernel.dropped == ["crishim_hold_node_5a"]
    assert kernel.loosened == ["10.0.0.2"]


async def test_a_restore_waits_until_its_source_is_in_order(node):
    node.stopped()
    node.recovery.load()
    (record,) = node.held.records.all()
    arriving = asyncio.ensure_future(node.sandboxes.arrive("target", record.interfaces))
    await asyncio.wait([arriving], timeout=0.05)
    assert not arriving.done()
    node.locks.recovered.done(record.sandbox, record.containers[0].id)
    with pytest.raises(AttributeError):  # this node has no containerd to ask
        await arriving


@pytest.mark.parametrize("handed_over", [False, True])
async def test_a_whole_archive_ends_its_source_after_a_crash(node, monkeypatch, handed_over):
    """Also one whose restore has taken the connections over already: it would stay for ever."""
    ended = []

    async def wait_ended(container):
        ended.append(container)

    cgroup = node.dump()
    waits = Waits.NO_MORE if handed_over else Waits.IN_POD
    node.stopped(kubelet=False, waits=waits).rename(node.path / "a.tar")
    monkeypatch.setattr(node.held, "_wait_ended", wait_ended)
    await node.start()
    await node.held.finish("5a")
    assert ended == ["d1"]
    assert not frozen(cgroup)
    assert [item.frozen for _, item in node.held.records.containers()] == [False]


class Ended:
    """Which stopped containers were ended; the first attempts fail as they are told to."""

    def __init__(self, monkeypatch, *errors):
        self.errors, self.containers = list(errors), []
        monkeypatch.setattr(HeldSandboxes, "end", lambda held, container: self.end(container))
        monkeypatch.setattr(Recovery, "_look_after", nothing)

    async def end(self, container):
        if self.errors:
            raise self.errors.pop(0)
        self.containers.append(container)


async def nothing(*_, **__):
    """Need no containerd."""


async def test_a_disk_that_answers_late_still_has_its_source_ended(node, monkeypatch):
    """The dump's own clean-up decided that its archive was whole, and nobody ended it then."""
    node.dump()
    node.stopped(kubelet=False).rename(node.path / "a.tar")
    ended = Ended(monkeypatch)
    with monkeypatch.context() as broken:
        broken.setattr(evidence, "standing", lambda *_, **__: 1 / 0)
        await node.start()
        assert node.held.records.undecided == ["5a"]
        broken.setattr(evidence, "standing", lambda *_, **__: evidence.Standing.UNKNOWN)
        await node.recovery.tend()
    assert ended.containers == []
    await node.recovery.tend()
    assert ended.containers == ["d1"]
    assert list(node.paths.dumps.iterdir()) == []


async def test_an_end_that_fails_once_is_tried_again(node, monkeypatch):
    node.stopped(kubelet=False).rename(node.path / "a.tar")
    ended = Ended(monkeypatch, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    await node.start()
    await node.recovery._deal_with("5a")
    assert node.recovery.restless
    await node.recovery.tend()
    assert ended.containers == ["d1"]
    assert not node.recovery.restless


@pytest.mark.parametrize("why", ["kubelet", "doubtful", "its dump is at work"])
async def test_a_source_that_is_not_ours_to_end_is_left_alone(node, monkeypatch, why):
    node.stopped(kubelet=why == "kubelet", doubtful=why == "doubtful").rename(node.path / "a.tar")
    ended = Ended(monkeypatch)
    await node.start()
    with contextlib.ExitStack() as stack:
        if why == "its dump is at work":
            stack.enter_context(node.locks.hold("d1", "checkpoint", sandbox="5a"))
        await node.recovery.tend()
    assert ended.containers == []


async def test_one_clean_up_of_a_dump_does_not_keep_another_from_ending_its_source(
    node, monkeypatch
):
    """Two were at work on the same directory: the second found it gone, and ended nothing."""
    node.dump()
    node.stopped(kubelet=False).rename(node.path / "a.tar")
    ended = Ended(monkeypatch)
    cri = SimpleNamespace(containers=no_containers)
    recovery = replace(node.recovery, cri=cri, pins=SimpleNamespace(reconcile=nothing))
    recovery.load()
    await recovery.run()
    assert ended.containers == ["d1"]
    assert list(node.paths.dumps.iterdir()) == []


async def no_containers():
    return []


async def test_a_source_that_a_kubelet_is_to_stop_stays_frozen(node, monkeypatch):
    cgroup = node.dump()
    node.stopped(kubelet=True, waits=Waits.NO_MORE).rename(node.path / "a.tar")
    await node.start()
    await node.held.finish("5a")
    assert frozen(cgroup)


def refuse_list(monkeypatch, path):
    """Have the disk refuse to list a directory until the returned function is called."""
    listdir, scandir = os.listdir, os.scandir

    def refusing(real):
        def call(directory="."):
            if os.fspath(directory) == str(path):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(directory)

        return call

    monkeypatch.setattr(os, "listdir", refusing(listdir))
    monkeypatch.setattr(os, "scandir", refusing(scandir))

    def mend():
        monkeypatch.setattr(os, "listdir", listdir)
        monkeypatch.setattr(os, "scandir", scandir)

    return mend


async def test_nothing_is_thawed_while_no_record_can_be_read(node, kernel, monkeypatch):
    """The archive is whole: thawed, the container would be a second live copy of it."""
    cgroup, half = node.dump(), node.stopped()
    half.rename(node.path / "a.tar")
    mend = refuse_list(monkeypatch, node.paths.held)
    await node.start()
    assert frozen(cgroup)
    assert (node.paths.dumps / "d1").exists()
    assert node.recovery.restless
    mend()
    await node.recovery.begin()
    assert frozen(cgroup)
    assert node.held.records.of_container("d1") is not None
    assert kernel.removed == []


async def test_records_that_are_read_late_still_let_a_container_go_on(node, monkeypatch):
    cgroup, _ = node.dump(), node.stopped()
    mend = refuse_list(monkeypatch, node.paths.held)
    await node.start()
    assert frozen(cgroup)
    mend()
    await node.recovery.begin()
    assert not frozen(cgroup)


async def test_nothing_is_thawed_while_nobody_can_list_the_dumps(node, monkeypatch):
    """A CRIU may be at work in one of them: thawed meanwhile, it leaves its parasite behind."""
    cgroup, _ = node.dump(), node.stopped()
    mend = refuse_list(monkeypatch, node.paths.dumps)
    await node.start()
    assert frozen(cgroup)
    assert node.recovery.restless
    mend()
    await node.recovery.begin()
    assert not frozen(cgroup)


async def test_a_dump_that_is_not_in_order_keeps_its_container_stopped(node, monkeypatch):
    cgroup, _ = node.dump(), node.stopped()
    node.held.records.load()

    def refuse(_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("crishim.kernel.atomic.try_lock", refuse)
    await node.recovery._finish("5a")
    assert frozen(cgroup)


@pytest.mark.parametrize("damage", ["record", "directory"])
async def test_a_hold_whose_record_cannot_be_read_stays(node, kernel, monkeypatch, damage):
    """Its pod is cut off for good reason: what it answered now would end its connections."""
    node.stopped()
    if damage == "record":
        (node.paths.held / "5a.json").write_text("{")
    else:
        refuse_list(monkeypatch, node.paths.held)
    pods = [SimpleNamespace(id="5a", netns="/run/netns/a"), SimpleNamespace(id="5b", netns="/b")]
    found = [
        hold.HoldRecord(netns="/run/netns/a", family="netdev", table="crishim_hold_1"),
        hold.HoldRecord(netns="", family="inet", table="crishim_hold_node_5a"),
        hold.HoldRecord(netns="/b", family="netdev", table="crishim_hold_2"),
    ]

    async def every(*_, **__):
        return pods

    async def one(identity):
        return next(pod for pod in pods if pod.id == identity)

    async def sweep(_, *, owned):
        kernel.removed += [record.table for record in found if not owned(record)]

    swept = []
    monkeypatch.setattr(neighbours, "sweep", lambda **_: swept.append(True))
    monkeypatch.setattr("crishim.network.strays.sweep", sweep)
    monkeypatch.setattr("crishim.network.address.sweep", every)
    recovery = replace(node.recovery, cri=SimpleNamespace(sandboxes=every, sandbox=one))
    recovery.load()
    await recovery._pieces.until_done(recovery._strays, "holds without an owner")
    assert kernel.removed == (["crishim_hold_2"] if damage == "record" else [])
    assert swept == []


async def test_the_note_of_a_half_archive_proves_nothing_after_a_power_cut(node):
    """Its removal need not be durable: it is back, and the archive is complete."""
    node.dump()
    (node.paths.dumps / "d1" / "half").touch()
    node.stopped(boot_id="an earlier one").rename(node.path / "a.tar")
    await node.start()
    assert node.held.records.of_container("d1") is not None


async def test_a_record_that_the_disk_gives_later_is_not_lost(node, monkeypatch):
    """Its sandbox may be gone by right: its connections wait at the node."""
    cgroup, half = node.dump(), node.stopped()
    half.rename(node.path / "a.tar")
    path, read_bytes = node.paths.held / "5a.json", pathlib.Path.read_bytes
    with monkeypatch.context() as broken:

        def read(self):
            if self == path:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return read_bytes(self)

        broken.setattr(pathlib.Path, "read_bytes", read)
        node.recovery.load()
        await node.held.sweep([], wait_s=60)
    assert path.exists()
    await node.recovery.begin()
    assert node.held.records.of_container("d1") is not None
    assert node.held.records.unreadable == set()
    assert frozen(cgroup)


@pytest.mark.parametrize("half", [True, False])
async def test_a_state_of_runc_that_is_torn_lets_nothing_go(node, kernel, half):
    """The record was forgotten, and the pod let go, though nothing had been thawed."""
    cgroup, archive = node.dump(), node.stopped()
    if not half:
        archive.unlink()
    (node.path / "runc" / "d1" / "state.json").write_text("{")
    await node.start()
    assert node.held.records.of_container("d1") is not None
    assert kernel.removed == []
    assert frozen(cgroup)
    with pytest.raises(Corrupt):
        await node.held.end("d1")


async def test_no_address_is_taken_back_because_nobody_could_list_the_restores(node, monkeypatch):
    """Its container runs, with the address; an empty list would say that none has arrived."""
    (node.paths.restores / "c1").mkdir(parents=True)

    class Containers:
        async def containers(self):
            return [SimpleNamespace(id="c1", pod_sandbox_id="5a")]

    recovery = Recovery(
        paths=node.paths, cri=Containers(), records=None, held=node.held,
        addresses=node.sandboxes, resolver=None, leftovers=None, reviver=None, pins=None,
        locks=node.locks, connections_wait_s=60,
    )  # fmt: skip
    mend = refuse_list(monkeypatch, node.paths.restores)
    with pytest.raises(OSError, match="Input/output"):
        await recovery._by_sandbox()
    mend()
    assert await recovery._by_sandbox() == {"5a": [node.paths.restores / "c1"]}


class BrokenOff:
    """A pod with containers whose restores were broken off, and a containerd that may refuse."""

    def __init__(self, node, monkeypatch, *containers, state="EXITED", waits=True, known=True):
        self.ended, self.deleted, self.recovered = [], [], []
        self.refuses, self.stays = set(), set()
        self.locks = node.locks
        self.state = state
        self.runc_root = node.path / "runc"
        self.directories = [node.paths.restores / container for container in containers]
        for directory in self.directories:
            directory.mkdir(parents=True)
            if waits:
                (directory / "pending").write_text(json.dumps(asdict(plan())))
            if known:
                (self.runc_root / directory.name).mkdir(parents=True)
        self.recovery = replace(
            node.recovery,
            cri=SimpleNamespace(container=self._container),
            records=SimpleNamespace(delete_task=self._delete_task),
            resolver=SimpleNamespace(runc=self._runc),
            reviver=SimpleNamespace(has_arrived=self._has_arrived),
            _unsettled={"s1": self.directories},
        )
        monkeypatch.setattr("crishim.tools.runc.end", self._end)
        monkeypatch.setattr("crishim.housekeeping.recovery.settled", self._settled)
        monkeypatch.setattr(node.sandboxes, "recover", self._recover)

    async def _container(self, identity):
        if self.state is None:
            raise RuntimeNotFound("no such container")
        number = api_pb2.ContainerState.Value(f"CONTAINER_{self.state}")
        return SimpleNamespace(id=identity, status=api_pb2.ContainerStatus(state=number))

    async def _runc(self, _):
        return Runc(binary="runc", root=self.runc_root)

    async def _has_arrived(self, _):
        return False

    async def _settled(self, *_, **__):
        pass

    async def _end(self, _, identity):
        assert not self.recovered, "its address goes first, and its processes run"
        if identity in self.stays:
            raise ToolFailed("runc delete", 1)
        self.ended.append(identity)

    async def _delete_task(self, identity):
        assert self.recovered, "the address would wait for containerd"
        assert self.locks.busy(identity), "it could be started meanwhile"
        with self.locks.hold("other", "restore", sandbox="s1", alone=True):
            pass  # nothing else of the pod waits
        if identity in self.refuses:
            raise RuntimeRefused("it has not ended", details="it has not ended")
        self.deleted.append(identity)
        return True

    async def _recover(self, sandbox, *, arrived):
        self.recovered.append((sandbox, arrived))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("state", ["CREATED", "RUNNING", "EXITED", "UNKNOWN"])
@pytest.mark.parametrize("waits", [True, False])
async def test_what_containerd_has_given_up_does_not_live_on(
    node, monkeypatch, waits, state, known
):
    """containerd 2.1 leaves the processes of a task alone whose caller has gone.

    And 2.4 has CRI forget a task that it had just made then.
    """
    half = BrokenOff(node, monkeypatch, "c1", state=state, waits=waits, known=known)
    await half.recovery._settle("s1")
    given_up = waits and state in ("CREATED", "EXITED")
    assert half.ended == (["c1"] if given_up and known else [])
    assert half.deleted == (["c1"] if given_up else [])
    assert half.recovered == [("s1", False)]


async def test_a_task_that_cannot_be_deleted_costs_nobody_else(node, monkeypatch):
    """What lives in the pod is ended and its address taken back; the task is tried again."""
    half = BrokenOff(node, monkeypatch, "c1", "c2")
    half.refuses.add("c1")
    await half.recovery._settle("s1")
    assert (half.ended, half.deleted) == (["c1", "c2"], ["c2"])
    assert half.recovered == [("s1", False)]
    assert half.recovery.restless
    half.refuses.clear()
    half.recovery._pieces.new_round()
    await half.recovery._pieces.again()
    assert half.deleted == ["c2", "c1"]
    assert not half.recovery.restless


@pytest.mark.parametrize("since", ["it runs", "it was restored", "it is gone"])
async def test_the_task_of_what_has_gone_on_since_is_left_alone(node, monkeypatch, since):
    """It could not be deleted at first."""
    half = BrokenOff(node, monkeypatch, "c1")
    half.refuses.add("c1")
    await half.recovery._settle("s1")
    half.refuses.clear()
    if since == "it runs":
        half.state = "RUNNING"
    elif since == "it was restored":
        (half.directories[0] / "pending").unlink()
    else:
        half.state = None
    half.recovery._pieces.new_round()
    await half.recovery._pieces.again()
    assert half.deleted == []
    assert not half.recovery.restless
    half.state = "EXITED"
    await half.recovery._pieces.again()
    assert half.deleted == [], "it is remembered for ever"


async def test_the_task_of_a_restore_under_way_is_left_alone(node, monkeypatch):
    """CRI calls its container created until it runs, and its plan is there."""
    half = BrokenOff(node, monkeypatch, "c1", state="CREATED")
    half.refuses.add("c1")
    await half.recovery._settle("s1")
    half.refuses.clear()
    with node.locks.hold("c1", "restore", sandbox="s1", alone=True):
        await half.recovery._pieces.again()
        assert half.deleted == []
    await half.recovery._pieces.again()
    assert half.deleted == ["c1"]


async def test_what_cannot_be_ended_does_not_keep_the_others_of_its_pod_alive(node, monkeypatch):
    """The address stays as long as one may live, and it is tried again."""
    half = BrokenOff(node, monkeypatch, "c1", "c2")
    half.stays.add("c1")
    await half.recovery._settle("s1")
    assert (half.ended, half.recovered, half.deleted) == (["c2"], [], [])
    half.stays.clear()
    await half.recovery._settle("s1")
    assert half.ended == ["c2", "c1", "c2"]
    assert half.recovered == [("s1", False)]
    assert sorted(half.deleted) == ["c1", "c2"]
