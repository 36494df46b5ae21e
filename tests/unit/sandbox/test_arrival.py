"""An address on its way to a pod: whatever step of its undo or release fails, the next is right."""

import asyncio
import dataclasses
import json
import threading
from types import SimpleNamespace

import pytest

from crishim.errors import Busy, Precondition, ToolFailed, Unavailable
from crishim.flow.locks import Locks
from crishim.ids import SandboxId
from crishim.kernel.net import netns
from crishim.kernel.net.netns import NetnsThread
from crishim.network import address, cni, hold, neighbours, reservation
from crishim.network.keeping import Policy
from crishim.network.placement import placed
from crishim.paths import Paths
from crishim.sandbox import addresses as sandboxes
from crishim.sandbox import arrival as arrivals
from crishim.sandbox.addresses import PreservedAddresses
from crishim.sandbox.arrival import Arrival
from crishim.sandbox.held import HeldSandboxes
from crishim.sandbox.heldrecord import Waits
from tests.unit.samples import held_record

TARGET, SOURCE = SandboxId("1" * 64), SandboxId("2" * 64)
STATE = held_record(archive="/a").interfaces[0]
UNDO = ["restore_node_hold", "end_closed", "put_back", "abandon", "keep_again"]
RELEASE = ["release", "write", "hand_over"]


class Scene:
    """What an arrival calls, each step of which may be told to fail."""

    def __init__(self, path, monkeypatch):
        self.done, self.failing = [], set()
        self.locks = Locks()
        self.paths = Paths(state=path, run=path)
        self.held = HeldSandboxes(self.paths, None)
        for name in ("restore_node_hold", "lift_node_hold", "keep_again", "hand_over"):
            monkeypatch.setattr(self.held.connections, name, self.step(name))
        for name in ("apply", "put_back"):
            monkeypatch.setattr(address, name, self.step(name))
        for module in (sandboxes, arrivals):
            monkeypatch.setattr(module, "end_closed", self.step("end_closed"))
        monkeypatch.setattr(sandboxes, "remove", self.step("remove"))
        monkeypatch.setattr(sandboxes, "standing", self.standing)
        monkeypatch.setattr(neighbours, "loosen", self.step("loosen"))
        names = ("close", "announce", "release", "abandon", "leave")
        self.hold = SimpleNamespace(link=None, **{name: self.step(name) for name in names})
        self.again()

    def again(self):
        """The daemon starts anew."""
        self.sandboxes = PreservedAddresses(
            cri=None,
            paths=self.paths,
            held=self.held,
            recovered=self.locks.recovered,
            keeps=Policy(unmanaged=True),
        )
        self.sandboxes.records.load()

    def step(self, name):
        async def run(*_, **__):
            if name in self.failing:
                raise Busy(f"{name} fails")
            self.done.append(name)
            return []

        return run

    async def standing(self, netns):
        table = "crishim_hold_1"
        gone = {"abandon", "release", "remove"} & set(self.done)
        return [] if gone else [hold.HoldRecord(netns=netns, family="netdev", table=table)]

    async def begun(self):
        own = STATE.__class__(name="eth0", mac="02:00:00:00:00:09", mtu_bytes=1500)
        plan = address.AddressRecord(
            sandbox=TARGET, netns="/nope", own=own, host_device="cr0",
            preserved=placed(STATE, own=own, host=own),
        )  # fmt: skip
        self.sandboxes.records._files.write(TARGET, plan)
        arrival = Arrival(self.sandboxes.records, self.held, self.hold, plan=plan, source=SOURCE)
        self.arrival = arrival
        await arrival.begin()
        self.done.clear()
        return arrival

    async def arrives_anew(self):
        """Whether the next restore in the pod brings the address again, behind a hold."""
        return not await self.sandboxes._has_arrived(TARGET)


@pytest.fixture
def scene(tmp_path, monkeypatch):
    return Scene(tmp_path, monkeypatch)


@pytest.mark.parametrize("failing", [*UNDO, "leave"])
async def test_each_step_of_the_undo_is_tried(scene, failing):
    arrival = await scene.begun()
    scene.failing = {failing, "put_back"} if failing == "leave" else {failing}
    await arrival.undo()
    # While the address may still be there, its hold stands: the pod would answer by resets.
    stays = failing in ("end_closed", "put_back", "leave")
    expected = [*UNDO[:3], "leave" if stays else "abandon", "keep_again"]
    if failing == "end_closed":
        expected.remove("put_back")
    assert scene.done == [step for step in expected if step not in scene.failing]
    scene.failing = set()
    assert await scene.arrives_anew()
    assert "put_back" in scene.done
    assert {"abandon", "remove"} & set(scene.done) or failing == "abandon"
    assert list(scene.paths.sandboxes.iterdir()) == []


async def test_no_restore_begins_while_an_undo_cannot_be_finished(scene):
    """It would run without hold and address, and every frame for it be dropped for good."""
    arrival = await scene.begun()
    scene.failing = {"put_back"}
    await arrival.undo()
    for _ in range(2):
        with pytest.raises(Busy):
            await scene.sandboxes._has_arrived(TARGET)
    assert scene.sandboxes.records.unsettled == [TARGET]
    scene.failing = set()
    await scene.sandboxes.recover(TARGET, arrived=False)
    assert scene.sandboxes.records.unsettled == []
    assert await scene.arrives_anew()


async def test_an_address_that_is_being_given_is_taken_back_after_that(tmp_path, monkeypatch):
    """The caller goes away while a thread waits for the kernel: its end comes before the undo."""
    real = address.apply, address.put_back
    scene = Scene(tmp_path, monkeypatch)
    for step in real:
        monkeypatch.setattr(address, step.__name__, step)
    given, may_end = threading.Event(), threading.Event()

    def give(netlink, record):
        given.set()
        assert may_end.wait(5)
        scene.done.append("given")

    monkeypatch.setattr(netns, "_enter", lambda path: None)
    monkeypatch.setattr(address, "_change_pod", give)
    monkeypatch.setattr(address, "_restore_pod", lambda _: scene.done.append("taken back"))
    for name in ("_change_host", "_restore_neighbours", "_restore_routes", "_remove_table"):
        monkeypatch.setattr(address, name, lambda *_: None)
    async with NetnsThread("/nope") as inside, NetnsThread(None) as outside:
        scene.hold.link = SimpleNamespace(
            inside=inside, outside=outside, netlink=None, host_netlink=None
        )
        beginning = asyncio.ensure_future(scene.begun())
        while not given.is_set():
            await asyncio.sleep(0.001)
        beginning.cancel()
        asyncio.get_running_loop().call_later(0.05, may_end.set)
        with pytest.raises(asyncio.CancelledError):
            await beginning
        await scene.arrival.undo()
    assert [step for step in scene.done if step != "close"] == [
        "given", "end_closed", "taken back", "abandon", "keep_again",
    ]  # fmt: skip


@pytest.mark.parametrize("failing", RELEASE)
async def test_each_step_of_the_release_is_tried(scene, monkeypatch, failing):
    arrival = await scene.begun()
    scene.failing = {failing}
    if failing == "write":
        monkeypatch.setattr(scene.sandboxes.records._files, "write", lambda *_: 1 / 0)
    await arrival.release()
    assert scene.done == [step for step in ("release", "hand_over") if step != failing]
    assert not await scene.arrives_anew()  # the restore has succeeded all the same


async def test_an_address_is_there_for_good_only_once_that_is_on_disk(scene):
    await scene.begun()
    stored = json.loads(next(scene.paths.sandboxes.iterdir()).read_bytes())
    assert stored["released"] is False
    scene.again()
    with pytest.raises(Unavailable, match="still to be put in order"):
        await scene.sandboxes._has_arrived(TARGET)
    await scene.sandboxes.recover(TARGET, arrived=True)
    scene.again()
    assert not await scene.arrives_anew()


@pytest.mark.parametrize("arrived", [True, False])
async def test_recovery_goes_by_the_container_and_not_by_what_is_absent(scene, arrived):
    await scene.begun()
    scene.again()
    await scene.sandboxes.recover(TARGET, arrived=arrived)
    assert ("put_back" in scene.done) is not arrived
    assert "remove" in scene.done  # the hold


async def test_a_record_that_was_released_is_never_taken_back(scene):
    """Another container of the pod may still wait for its own restore."""
    arrival = await scene.begun()
    await arrival.release()
    scene.again()
    scene.done.clear()
    await scene.sandboxes.recover(TARGET, arrived=False)
    assert "put_back" not in scene.done


@pytest.mark.parametrize("moved_on", [False, True])
async def test_connections_that_went_on_from_a_pod_are_not_let_go_for_it(
    scene, monkeypatch, moved_on
):
    """The pod is there still, without its container; the next one with its address was stopped."""
    arrival = await scene.begun()
    await arrival.release()
    scene.done.clear()
    if moved_on:
        own = dataclasses.replace(held_record(archive="/b", waits=Waits.NO_MORE), sandbox=TARGET)
        scene.held.committed(own, own.containers[0].id)
    other = dataclasses.replace(held_record(archive="/a"), sandbox=SOURCE)
    scene.held.committed(other, other.containers[0].id)

    async def both():
        return [SimpleNamespace(id=TARGET), SimpleNamespace(id=SOURCE)]

    monkeypatch.setattr(scene.sandboxes, "_cri", SimpleNamespace(sandboxes=both))
    await scene.sandboxes.sweep()
    assert ("hand_over" in scene.done) is not moved_on


async def test_a_pod_can_be_deleted_whatever_fails(scene, monkeypatch):
    """StopPodSandbox is passed on; what is left is tried again when the sandbox is gone."""
    arrival = await scene.begun()
    await arrival.release()
    scene.failing = {"put_back"}
    await scene.sandboxes.stopping(TARGET)
    assert scene.sandboxes.records.sandboxes() == [TARGET]

    async def none_left():
        return []

    monkeypatch.setattr(scene.sandboxes, "_cri", SimpleNamespace(sandboxes=none_left))
    scene.failing = set()
    await scene.sandboxes.sweep()
    assert scene.sandboxes.records.sandboxes() == []


async def test_a_refusal_of_nftables_leaves_nothing_open(monkeypatch):
    """A release that cannot remove its table closes all the same, and is remembered."""
    seen, closed = [], []

    class Inside:
        async def run(self, function, *_):
            raise ToolFailed("nft", 1)

    async def close():
        closed.append(True)

    async def refuse(record):
        seen.append(record.table)
        raise Precondition("no nftables")

    async def gone(record):
        seen.append(record.table)

    nft, tap = SimpleNamespace(remove=None), SimpleNamespace(stop=list, send=None)
    link = SimpleNamespace(
        netns="/nope", closed=False, inside=Inside(), outside=Inside(), nft=nft, tap=tap,
        close=close,
    )  # fmt: skip
    source = hold.SourceHold(link, lasting=True)
    monkeypatch.setattr(hold, "remove", refuse)
    with pytest.raises(ToolFailed):
        await source.release()
    assert closed == [True]
    with pytest.raises(Precondition):
        await hold.remove_left()
    monkeypatch.setattr(hold, "remove", gone)
    await hold.remove_left()
    await hold.remove_left()
    assert seen == [source.record.table] * 3


class Asking:
    """A node whose sandboxes and network are asked who has an address."""

    def __init__(self, scene, monkeypatch, tmp_path):
        self.scene, self.asked, self.reservations = scene, [], tmp_path / "pods"
        self.reservations.mkdir()

        async def check(state, others, *, link, ask_network):
            self.asked.append((sorted(others), ask_network))

        async def sandboxes_of():
            names = (TARGET, SOURCE, "3" * 64)
            return [SimpleNamespace(id=name, state=0) for name in names]

        async def addresses(sandbox):
            return ("10.0.0.9",)

        monkeypatch.setattr(address, "check", check)
        scene.sandboxes._cri = SimpleNamespace(sandboxes=sandboxes_of, addresses=addresses)

    async def arrives(self, *, source, managed=True):
        network = cni.SandboxNetwork(reservations=self.reservations if managed else None)
        await self.scene.sandboxes._refuse_in_use(
            STATE, self.scene.hold, network, sandbox=TARGET, source=source
        )
        return self.asked


@pytest.fixture
def asking(scene, monkeypatch, tmp_path):
    return Asking(scene, monkeypatch, tmp_path)


async def test_an_address_that_nobody_holds_here_is_asked_for_everywhere(asking):
    assert await asking.arrives(source=None) == [([SOURCE, "3" * 64], True)]


async def test_what_is_reserved_for_the_source_nobody_else_has(asking):
    reservation.reserve(asking.reservations, ["10.0.0.2"], owner=SOURCE, former=None, waiting=True)
    assert await asking.arrives(source=SOURCE) == []


@pytest.mark.parametrize("managed", [True, False])
async def test_a_source_whose_address_nobody_reserved_is_no_proof(asking, managed):
    """CNI may have given it to another pod since; a source that runs still answers itself."""
    assert await asking.arrives(source=SOURCE, managed=managed) == [(["3" * 64], False)]
