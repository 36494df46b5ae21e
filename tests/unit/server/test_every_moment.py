"""A restore is cancelled, or its pod stopped, at every moment at which it waits: nothing leaks."""

import asyncio
import contextlib
import errno
import os
import secrets
import time
from dataclasses import replace
from types import SimpleNamespace

import grpc
import pytest
from google.protobuf.message import Message

from crishim._proto.runtime.v1 import api_pb2
from crishim.container.resolve import Resolver
from crishim.errors import Busy, CrishimError, RuntimeRefused, ToolFailed, Unavailable
from crishim.flow.phases import Phases
from crishim.ids import ContainerId, SandboxId
from crishim.network import hold
from crishim.restore import receive
from crishim.restore.options import RestoreOptions
from crishim.restore.receive import ReceiveRequest
from crishim.restore.wanted import read_manifest
from crishim.sandbox import heldrecord
from crishim.sandbox.heldrecord import HeldState, Waits
from crishim.server.relay.overrides import Call
from tests.fakes.containerd import Refused
from tests.fakes.network import STATE, Network
from tests.unit.moments import Moments
from tests.unit.samples import held_record
from tests.unit.server.flows import Node, serving_node


class Caller:
    """What a method gets of its gRPC call."""

    def time_remaining(self) -> float | None:
        return None

    def invocation_metadata(self) -> tuple:
        return ()


class Scene:
    """A node, and a pod on it for each attempt."""

    def __init__(self, node: Node, moments: Moments, network: Network) -> None:
        self.node = node
        self.network = network
        self.moments = moments
        self.attempts = 0
        self.pod = node.containerd.pod()

    def next_pod(self) -> None:
        self.attempts += 1
        self.pod = self.node.containerd.pod(uid=f"uid-{self.attempts}")

    def call(self, method: str, request: Message) -> asyncio.Task:
        """Call a method as a relay does, in a task of its own."""
        name = f"/runtime.v1.RuntimeService/{method}"
        forward = self.node.relay.forwarder.forward
        call = Call(request.SerializeToString(), lambda raw: forward(name, raw, Caller()))
        return asyncio.create_task(self.node.methods.overrides()[name](call))

    def creating(self, attempt: int = 0) -> asyncio.Task:
        request = self.node.request(self.pod, restore="saved", attempt=attempt)
        return self.call("CreateContainer", request)

    def starting(self, container: str) -> asyncio.Task:
        request = api_pb2.StartContainerRequest(container_id=container)
        return self.call("StartContainer", request)

    def stopping(self) -> asyncio.Task:
        request = api_pb2.StopPodSandboxRequest(pod_sandbox_id=self.pod.id)
        return self.call("StopPodSandbox", request)

    def bodies(self) -> list[str]:
        return [b.id for b in self.node.containerd.bodies.values() if b.sandbox == self.pod.id]

    async def created(self) -> str:
        answer = await self.creating()
        return str(api_pb2.CreateContainerResponse.FromString(answer).container_id)

    async def nothing_left(self) -> None:
        """No file, lease, lock, address or container of the attempt."""
        node = self.node
        await node.forget_preparations(self.pod)
        assert not self.network.holds and not self.network.given
        assert not node.flows.addresses.records.sandboxes()
        assert not self.bodies() and not node.containerd.leases
        kept = ("restored/", "logs/")
        assert [path for path in node.state() if not path.startswith(kept)] == []
        assert not any(node.flows.locks.busy(body) for body in node.containerd.bodies)

    async def comes_to_life(self) -> None:
        """Another pod is restored, as if nothing had been."""
        self.next_pod()
        container = await self.created()
        await self.starting(container)
        assert self.node.containerd.revived[-1] == container
        await self.node.remove_pod(self.pod)
        await self.node.relay.calls.until_finished()


@pytest.fixture
async def scene(tmp_path, monkeypatch):
    moments, network = Moments(), Network()
    network.install(monkeypatch)
    asyncio.get_running_loop().set_task_factory(moments.factory)
    async with serving_node(tmp_path) as node:
        node.archive(state=STATE)
        scene = Scene(node, moments, network)
        await scene.comes_to_life()
        yield scene
    assert node.containerd.cold == []


async def ended(task: asyncio.Task) -> object:
    """Return how a call ended: its answer, or the error."""
    async with asyncio.timeout(10):
        return (await asyncio.gather(task, return_exceptions=True))[0]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def moments_of(scene: Scene, begin) -> int:
    """Return how often a call waits when nobody disturbs it."""
    scene.next_pod()
    argument = await begin.prepare(scene)
    scene.moments.arm(0, lambda: None)
    await begin.call(scene, argument)
    count = scene.moments.count
    await scene.node.remove_pod(scene.pod)
    await scene.node.relay.calls.until_finished()
    return count


class Create:
    """CreateContainer of a pod that names a checkpoint."""

    @staticmethod
    async def prepare(scene: Scene) -> str:
        return ""

    @staticmethod
    def call(scene: Scene, _: str) -> asyncio.Task:
        return scene.creating()


class Start:
    """StartContainer of such a container."""

    @staticmethod
    async def prepare(scene: Scene) -> str:
        return await scene.created()

    @staticmethod
    def call(scene: Scene, container: str) -> asyncio.Task:
        return scene.starting(container)


async def test_a_create_cancelled_at_every_moment(scene) -> None:
    count = await moments_of(scene, Create)
    before = descriptors()
    for at in range(1, count + 1):
        scene.next_pod()
        task = scene.creating()
        scene.moments.arm(at, task.cancel)
        outcome = await ended(task)
        if isinstance(outcome, asyncio.CancelledError):
            await scene.nothing_left()
        else:
            assert isinstance(outcome, bytes) and len(scene.bodies()) == 1, f"{at}: {outcome}"
            await scene.node.remove_pod(scene.pod)
            await scene.node.relay.calls.until_finished()
        if at % 20 == 0:
            await scene.comes_to_life()
    assert descriptors() <= before + 2


@pytest.mark.parametrize("brief", [False, True])
async def test_a_start_cancelled_at_every_moment_goes_on_to_its_end(scene, brief: bool) -> None:
    """So does one of processes that had little left to do, and have ended by themselves."""
    scene.node.containerd.brief = brief
    count = await moments_of(scene, Start)
    for at in range(1, count + 1):
        scene.next_pod()
        container = await scene.created()
        task = scene.starting(container)
        scene.moments.arm(at, task.cancel)
        assert isinstance(await ended(task), bytes | asyncio.CancelledError)
        body = scene.node.containerd.bodies[container]
        if body.state == api_pb2.CONTAINER_CREATED:  # cancelled before it had begun
            assert scene.node.flows.leftovers.waits(container)
            await scene.starting(container)
        assert scene.node.containerd.revived[-1] == container
        assert scene.network.released[-1] == f"/run/netns/{scene.pod.id}"
        assert scene.node.flows.restored.before(pod_uid=scene.pod.metadata.uid, container="counter")
        await scene.node.remove_pod(scene.pod)
        await scene.node.relay.calls.until_finished()


async def test_a_start_is_no_cold_one_because_nobody_could_look(scene, monkeypatch) -> None:
    """EACCES is what Path.glob swallows on every Python, and from 3.13 on all others too."""
    scene.next_pod()
    container = await scene.created()
    with monkeypatch.context() as patched:
        for name in ("listdir", "scandir"):
            real = getattr(os, name)

            def refused(path=".", real=real):
                if str(path) == str(scene.node.paths.restores):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
                return real(path)

            patched.setattr(os, name, refused)
        assert isinstance(await ended(scene.starting(container)), Exception)
    assert container not in scene.node.containerd.revived
    assert scene.node.flows.leftovers.waits(container)
    await scene.starting(container)
    assert scene.node.containerd.revived[-1] == container


class Away:
    """A containerd that refuses a method for some time, and is back then."""

    def __init__(self, times: int, act=lambda: None) -> None:
        self.left = times
        self.act = act

    async def __call__(self, request: object) -> None:
        self.act()
        if self.left:
            self.left -= 1
            raise Refused(grpc.StatusCode.UNAVAILABLE, "containerd has died")


@pytest.mark.parametrize(("begin", "away"), [(Create, 0), (Start, 0), (Start, 2)])
async def test_a_pod_stopped_at_every_moment(scene, monkeypatch, begin, away: int) -> None:
    """What was undone is restored in the pod's next sandbox; what was over is the past."""
    monkeypatch.setattr("crishim.restore.settle._END_AGAIN_S", 0)
    network = scene.network

    def sealed_still() -> None:
        netns = f"/run/netns/{scene.pod.id}"
        assert netns not in network.given or network.holds[netns] == "both ways"

    count = await moments_of(scene, begin)
    for at in range(1, count + 1):
        scene.next_pod()
        argument = await begin.prepare(scene)
        scene.node.containerd.before["StopContainer"] = Away(away, sealed_still)
        stops: list[asyncio.Task] = []
        task = begin.call(scene, argument)
        scene.moments.arm(at, lambda stops=stops: stops.append(scene.stopping()))
        outcome = await ended(task)
        assert isinstance(outcome, bytes | CrishimError), f"{at}: {outcome!r}"
        for stop in stops:
            assert isinstance(await ended(stop), bytes)
        if stops:
            assert not set(scene.bodies()) & set(scene.node.containerd.running())
        if isinstance(outcome, CrishimError) and begin is Create:
            await scene.nothing_left()
        over = isinstance(outcome, bytes) and begin is Start
        netns = f"/run/netns/{scene.pod.id}"
        assert (netns in scene.network.released) is over
        uid = scene.pod.metadata.uid
        assert scene.node.flows.restored.before(pod_uid=uid, container="counter") is over, at
        await scene.node.remove_pod(scene.pod)
        await scene.node.relay.calls.until_finished()
        await scene.nothing_left()


CRIU_SAYS = "(00.012345)      7: Error (criu/files-reg.c:2300): Can't open file data/journal\n"


@pytest.mark.parametrize("step", ["", "end_closed", "put_back", "abandon"])
async def test_an_undo_of_a_start_whose_steps_fail_in_turn(scene, step: str) -> None:
    """The caller is told of CRIU; what could not be undone is, before the next attempt."""
    node, network = scene.node, scene.network
    scene.next_pod()
    container = await scene.created()
    node.containerd.criu_error = CRIU_SAYS
    network.failing = {step}
    with pytest.raises(ToolFailed, match="Can't open file data/journal"):
        await scene.starting(container)
    netns = f"/run/netns/{scene.pod.id}"
    assert netns not in network.released
    assert netns not in network.given or netns in network.holds, "the address shows"
    assert not node.flows.restored.before(pod_uid=scene.pod.metadata.uid, container="counter")
    node.containerd.criu_error, network.failing = "", set()
    await scene.starting(container)
    assert node.containerd.revived[-1] == container
    assert network.released[-1] == netns and netns in network.given
    await node.remove_pod(scene.pod)
    await node.relay.calls.until_finished()
    await scene.nothing_left()


@pytest.mark.parametrize(
    "fault",
    ["", "RemoveContainer", "Leases/Delete", "Containers/Create", "umount", "rmdir", "fsync"],
)
async def test_an_undo_of_a_preparation_whose_steps_fail_in_turn(
    scene, monkeypatch, fault: str
) -> None:
    """The caller is told why the create failed; what stays is cleared up later."""
    node = scene.node
    scene.next_pod()
    before = descriptors()

    async def refuse(request: object) -> None:
        raise Refused(grpc.StatusCode.INTERNAL, "on purpose")

    def fails(*_: object, **__: object) -> None:
        raise OSError("on purpose")

    with monkeypatch.context() as patch:
        node.containerd.before = {"Snapshots/Mounts": refuse}
        if fault in ("Leases/Delete", "Containers/Create"):
            node.containerd.before = {"Containers/Delete": refuse, fault: refuse}
        elif fault == "RemoveContainer":
            node.containerd.before[fault] = refuse
        elif fault:
            patch.setattr(
                {
                    "umount": "crishim.kernel.mounts.umount",
                    "rmdir": "crishim.kernel.tree.remove_tree",
                    "fsync": "crishim.kernel.atomic.fsync_dir",
                }[fault],
                fails,
            )
        outcome = await ended(scene.creating())
    assert isinstance(outcome, RuntimeRefused) and outcome.details == "on purpose"
    node.containerd.before = {}
    assert descriptors() <= before + 2
    for body in scene.bodies():
        assert not node.flows.leftovers.waits(body), "it would be restored by half"
    await node.remove_pod(scene.pod)
    await node.relay.calls.until_finished()
    node.containerd.leases.clear()  # they expire
    await scene.nothing_left()
    await scene.comes_to_life()


@pytest.mark.parametrize("runs", [True, False])
async def test_a_containerd_that_stays_away_has_nothing_undone(
    scene, monkeypatch, runs: bool
) -> None:
    """Whether the container runs is found out when containerd is back, and nothing before."""
    monkeypatch.setattr("crishim.restore.settle._RUNTIME_BACK_S", 0.05)
    node, network = scene.node, scene.network
    scene.next_pod()
    container = await scene.created()
    netns = f"/run/netns/{scene.pod.id}"

    async def dies(request: object) -> None:
        if runs:
            node.containerd.StartContainer(request)
        raise Refused(grpc.StatusCode.UNAVAILABLE, "containerd has died")

    async def away(request: object) -> None:
        raise Refused(grpc.StatusCode.UNAVAILABLE, "containerd is away")

    node.containerd.before = {"StartContainer": dies, "ContainerStatus": away}
    with pytest.raises(Unavailable, match="nobody knows yet"):
        await scene.starting(container)
    assert netns in network.given and netns in network.holds and netns not in network.released
    await node.flows.recovery.tend()
    assert netns in network.given and netns in network.holds
    node.containerd.before = {}
    with pytest.raises(Unavailable):
        await scene.starting(container)
    await node.flows.recovery.tend()
    assert netns not in network.holds and (netns in network.given) is runs
    uid = scene.pod.metadata.uid
    if runs:
        assert node.flows.restored.before(pod_uid=uid, container="counter")
    else:
        await scene.starting(container)
        assert network.released[-1] == netns
    assert node.containerd.revived[-1] == container
    await node.remove_pod(scene.pod)
    await node.relay.calls.until_finished()
    await scene.nothing_left()


@pytest.mark.parametrize("state", [api_pb2.CONTAINER_EXITED, api_pb2.CONTAINER_RUNNING])
async def test_what_cannot_be_ended_stays_sealed_until_it_is_known_to_have_ended(
    scene, monkeypatch, state: int
) -> None:
    """Its archive may be restored elsewhere as soon as the restore is said to have failed."""
    monkeypatch.setattr("crishim.restore.settle._RUNTIME_BACK_S", 0.05)
    node, network = scene.node, scene.network
    scene.next_pod()
    container, netns = await scene.created(), f"/run/netns/{scene.pod.id}"
    body = node.containerd.bodies[container]
    stopped = asyncio.Event()

    async def starting(request: object) -> None:
        operation = node.flows.locks._operations[container]
        operation.ask_to_end()  # as a stop of the pod does
        while network.holds.get(netns) != "both ways":
            await asyncio.sleep(0)

    async def refuses(request: object) -> None:
        if not stopped.is_set():
            body.state = api_pb2.CONTAINER_UNKNOWN  # its shim does not answer
            raise Refused(grpc.StatusCode.UNKNOWN, "the shim does not answer")

    node.containerd.before = {"StartContainer": starting, "StopContainer": refuses}
    with pytest.raises(Unavailable, match="nobody knows yet"):
        await scene.starting(container)
    uid = scene.pod.metadata.uid
    for _ in range(2):
        assert netns in network.given and network.holds[netns] == "both ways"
        assert node.flows.restored.unsettled(pod_uid=uid, container="counter") == container
        await node.flows.recovery.tend()
    stopped.set()
    body.state = state
    node.containerd.before = {}
    await node.flows.recovery.tend()
    assert body.state == api_pb2.CONTAINER_EXITED
    assert netns not in network.holds and netns not in network.given
    assert netns not in network.released
    again = await scene.created()
    await scene.starting(again)
    assert node.containerd.revived[-1] == again, "the pod's next container is cold"
    await node.remove_pod(scene.pod)
    await node.relay.calls.until_finished()
    await scene.nothing_left()


@pytest.fixture
def waiting(scene, monkeypatch):
    """A stopped container whose sandbox has gone: the node drops for its address."""
    sandbox = SandboxId("5" * 64)
    node_hold = hold.NodeHold.record_of(sandbox)
    tables = {node_hold.table}

    async def close(one: hold.NodeHold) -> None:
        tables.add(one.record.table)

    async def remove(record: hold.HoldRecord) -> None:
        tables.discard(record.table)

    monkeypatch.setattr(hold.NodeHold, "close", close)
    monkeypatch.setattr(hold, "remove", remove)
    record = replace(
        held_record(archive=str(scene.node.paths.store / "saved.tar"), state=HeldState.ENDED),
        sandbox=sandbox,
        interfaces=(STATE,),
        waits=Waits.AT_NODE,
        pod_hold=None,
        boot_id=heldrecord.this_boot(),
        stopped_at_boot_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME),
    )
    scene.node.paths.held.mkdir(parents=True)
    scene.node.paths.held_sandbox(sandbox).write_bytes(heldrecord.CODEC.encode(record))
    scene.node.flows.held.records.load()
    return tables


@pytest.mark.parametrize("runs", [True, False])
@pytest.mark.parametrize("settled_by", ["tend", "stop", "removal"])
async def test_a_restore_in_doubt_has_its_sources_connections_or_they_wait_again(
    scene, waiting, monkeypatch, settled_by: str, runs: bool
) -> None:
    """Whoever is first to hear of containerd what became of it."""
    monkeypatch.setattr("crishim.restore.settle._RUNTIME_BACK_S", 0.05)
    node, network, held = scene.node, scene.network, scene.node.flows.held
    dropping = set(waiting)
    scene.next_pod()
    container, netns = await scene.created(), f"/run/netns/{scene.pod.id}"

    async def dies(request: object) -> None:
        if runs and node.containerd.bodies[container].state == api_pb2.CONTAINER_CREATED:
            node.containerd.StartContainer(request)
        raise Refused(grpc.StatusCode.UNAVAILABLE, "containerd has died")

    node.containerd.before = {"StartContainer": dies, "ContainerStatus": Away(1000)}
    with pytest.raises(Unavailable, match="nobody knows yet"):
        await scene.starting(container)
    assert netns in network.given and not waiting
    node.containerd.before = {}
    if settled_by == "tend":
        await node.flows.recovery.tend()
    elif settled_by == "stop":
        await scene.stopping()
        assert netns not in network.given
    else:
        node.containerd.RemovePodSandbox(
            api_pb2.RemovePodSandboxRequest(pod_sandbox_id=scene.pod.id)
        )
        await node.flows.addresses.sweep()
        assert netns not in network.given
    assert netns not in network.holds and not node.flows.addresses.records.doubtful
    went_on = runs and settled_by != "removal"  # which ends it, seen by nobody
    assert (netns in network.released) is went_on
    assert waiting == (set() if went_on else dropping)
    assert (held.records.of_addresses(STATE.global_addresses) is None) is went_on
    assert not held.connections._restoring


@pytest.mark.parametrize("state", [api_pb2.CONTAINER_UNKNOWN, api_pb2.CONTAINER_RUNNING])
async def test_a_stop_of_a_pod_takes_nothing_from_processes_that_may_run(
    scene, waiting, monkeypatch, state: int
) -> None:
    """Its address stays, behind the hold, where containerd does not know what became of them."""
    monkeypatch.setattr("crishim.restore.settle._RUNTIME_BACK_S", 0.05)
    node, network = scene.node, scene.network
    scene.next_pod()
    container, netns = await scene.created(), f"/run/netns/{scene.pod.id}"
    node.containerd.before = {"StartContainer": Away(1), "ContainerStatus": Away(1000)}
    with pytest.raises(Unavailable):
        await scene.starting(container)
    node.containerd.before = {}
    node.containerd.bodies[container].state = state
    known = state != api_pb2.CONTAINER_UNKNOWN
    await scene.stopping()
    assert (netns in network.given) is not known and (netns in network.holds) is not known
    assert (netns in network.released) is known
    node.containerd.bodies[container].state = api_pb2.CONTAINER_EXITED
    await scene.stopping()
    assert netns not in network.given and netns not in network.holds
    assert bool(waiting) is not known


async def test_a_restore_that_a_stop_has_sealed_is_not_let_out_by_that_stop(
    scene, waiting, monkeypatch
) -> None:
    """containerd cannot end it in time, and says at last that it runs."""
    monkeypatch.setattr("crishim.restore.settle._RUNTIME_BACK_S", 0.05)
    node, network, held = scene.node, scene.network, scene.node.flows.held
    dropping = set(waiting)
    scene.next_pod()
    container, netns = await scene.created(), f"/run/netns/{scene.pod.id}"
    stops: list[asyncio.Task] = []

    async def starting(request: object) -> None:
        stops.append(scene.stopping())
        while network.holds.get(netns) != "both ways":
            await asyncio.sleep(0)

    node.containerd.before = {"StartContainer": starting, "StopContainer": Away(1000)}
    with pytest.raises(Unavailable, match="nobody knows yet"):
        await scene.starting(container)
    assert isinstance(await ended(stops[0]), bytes)
    assert netns not in network.released
    uid = scene.pod.metadata.uid
    assert not node.flows.restored.before(pod_uid=uid, container="counter")
    node.containerd.before = {}
    await node.flows.recovery.tend()  # the pod is gone, or its container is ended now
    assert netns not in network.released and netns not in network.given
    assert waiting == dropping and held.records.of_addresses(STATE.global_addresses) is not None
    assert container not in node.containerd.running()


class Reception:
    """A restore that waits for the dump of another container, which the test plays."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.source = ContainerId(secrets.token_hex(32))
        self.container = ContainerId("")
        self.succeeded = False

    async def prepare(self) -> None:
        answer = await self.scene.node.cri.CreateContainer(
            self.scene.node.request(self.scene.pod, name="successor")
        )
        self.container = ContainerId(answer.container_id)

    def receiving(self) -> asyncio.Task:
        request = ReceiveRequest(
            container=self.container, source=self.source, options=RestoreOptions()
        )
        receiver = self.scene.node.flows.receiver
        moving = contextlib.nullcontext()
        return asyncio.create_task(receiver.receive(request, phases=Phases(), moving=moving))

    async def dump(self) -> None:
        """Stop the source as soon as the restore waits, and wait for its end."""
        handovers = self.scene.node.flows.receiver.handovers
        while (handover := handovers.take(self.source)) is None:
            await asyncio.sleep(0)
        over = asyncio.ensure_future(handover.wait_over())
        while handover.image_directory is None and not over.done():
            await asyncio.sleep(0)
        handover.connections_are_held()
        handover.archive_appeared(self.scene.node.paths.store / "saved.tar", None)
        self.succeeded = await over


@pytest.fixture
def source_runs(scene, monkeypatch):
    """What the kernel and runc would say of a source."""
    said = read_manifest(scene.node.paths.store / "saved.tar")

    async def resolve(_: object, container: str):
        sandbox = SimpleNamespace(id="5a", netns="/x", host_network=False)
        found = SimpleNamespace(id=container, spec={})
        return SimpleNamespace(container=found, sandbox=sandbox, runc=None)

    async def nothing(*_: object) -> None:
        return None

    monkeypatch.setattr(Resolver, "source", resolve)
    monkeypatch.setattr(receive.describe, "tools", nothing)
    monkeypatch.setattr(receive.describe, "manifest", lambda *_: said)
    monkeypatch.setattr(receive.address, "read", nothing)
    monkeypatch.setattr(receive.runcs, "cgroup_of", lambda *_: "/x")
    monkeypatch.setattr(receive.cgroup, "processes", lambda _: [])
    monkeypatch.setattr(receive.rights_read, "of_processes", lambda *_: None)
    monkeypatch.setattr(receive.rights_read, "of_archive", lambda *_: None)
    monkeypatch.setattr(receive.rights, "check", lambda *_, **__: None)


@pytest.mark.parametrize("stop", [False, True], ids=["cancelled", "pod-stopped"])
async def test_a_restore_that_waits_for_its_dump_broken_off_at_every_moment(
    scene, source_runs, stop: bool
) -> None:
    """It ran and has the address, or nothing is left and the archive is for another attempt."""
    at, count = 0, 1
    while at <= count:
        scene.next_pod()
        reception = Reception(scene)
        await reception.prepare()
        stops: list[asyncio.Task] = []
        task = reception.receiving()
        scene.moments.arm(
            at, task.cancel if not stop else lambda stops=stops: stops.append(scene.stopping())
        )
        dump = asyncio.create_task(reception.dump())
        outcome = await ended(task)
        count = max(count, scene.moments.count)
        if not dump.done():
            await asyncio.sleep(0)
            dump.cancel()  # of a restore that has ended before it could be met
        for call in (*stops, dump):
            await ended(call)
        netns = f"/run/netns/{scene.pod.id}"
        ran = netns in scene.network.released
        assert reception.succeeded is ran, f"{at}: the dump is told wrong"
        assert ran or not isinstance(outcome, tuple), f"{at}: {outcome!r}"
        assert isinstance(outcome, tuple | asyncio.CancelledError | Busy), f"{at}: {outcome!r}"
        if not ran:
            assert netns not in scene.network.given and netns not in scene.network.holds, at
            assert reception.container not in scene.node.containerd.running()
        elif not stop:
            assert reception.container in scene.node.containerd.running()
        await scene.node.remove_pod(scene.pod)
        await scene.node.relay.calls.until_finished()
        await scene.nothing_left()
        at += 1
    assert count > 20
