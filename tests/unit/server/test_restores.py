"""Restores through CRI, the real flows behind a socket, in front of a fake containerd."""

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from crishim._proto.runtime.v1 import api_pb2
from crishim.container import resolve
from crishim.errors import RuntimeRefused
from crishim.flow.phases import Phases
from crishim.ids import ContainerId, SandboxId
from crishim.kernel import atomic
from crishim.kernel.net.interface import InterfaceState
from crishim.network import address, neighbours
from crishim.network.address import AddressRecord
from crishim.restore.options import RestoreOptions
from crishim.restore.restored import Restored
from crishim.sandbox import heldrecord, mptcp
from crishim.store import store
from crishim.tools import atwork
from tests.fakes.containerd import Refused
from tests.unit.criu_samples import core
from tests.unit.samples import held_record
from tests.unit.server.flows import Node, serving_node


@pytest.fixture
async def node(tmp_path):
    async with serving_node(tmp_path) as node:
        yield node


class Gate:
    """Where a call to containerd waits until the test lets it go on."""

    def __init__(self, node: Node, method: str) -> None:
        self.reached, self.open = asyncio.Event(), asyncio.Event()
        node.containerd.before[method] = self.wait

    async def wait(self, request: object) -> None:
        self.reached.set()
        await self.open.wait()


async def failure_of(call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def no_sooner(call) -> asyncio.Future:
    """Begin a call that has to wait."""
    task = asyncio.ensure_future(call)
    done, _ = await asyncio.wait([task], timeout=0.1)
    assert not done, "it did not wait"
    return task


async def test_a_pod_that_names_a_checkpoint_is_restored_once(node) -> None:
    node.archive()
    pod = node.containerd.pod()
    first = await node.create(pod, restore="saved")
    await node.start(first)
    assert node.containerd.revived == [first]
    second = await node.create(pod, restore="saved", attempt=1)
    await node.start(second)
    assert node.containerd.cold == [second]


@pytest.mark.parametrize("stored", ["by annotation", "by name"])
async def test_a_checkpoint_of_a_privileged_container_stays_out_of_a_plain_pod(
    node, stored
) -> None:
    node.archive(images={"checkpoint/core-7.img": core(b"admin", cap_bnd=[1 << 21, 0])})
    named = {"restore": "saved"} if stored == "by annotation" else {"image": "saved"}
    error = await failure_of(node.create(node.containerd.pod(), **named))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "process 7 (admin) has the capabilities SYS_ADMIN" in error.details()
    assert "--allow-privileges" in error.details()
    assert node.containerd.revived == [] and node.state() == []


async def test_a_pod_stopped_in_the_middle_of_a_restore_gets_nothing_of_it(node) -> None:
    node.archive()
    pod = node.containerd.pod()
    container = await node.create(pod, restore="saved")
    gate = Gate(node, "StartContainer")
    starting = asyncio.ensure_future(node.start(container))
    await gate.reached.wait()
    stopping = await no_sooner(node.stop_pod(pod))
    assert node.containerd.counts["StopPodSandbox"] == 0
    gate.open.set()
    await stopping
    error = await failure_of(starting)
    assert error.code() is grpc.StatusCode.ABORTED and "being stopped" in error.details()
    assert node.containerd.running() == []
    # It counts as not restored: the same archive is restored in the pod's next sandbox.
    node.containerd.before.clear()
    again = await node.create(node.containerd.pod(), restore="saved")
    await node.start(again)
    assert node.containerd.revived == [container, again]
    assert node.containerd.cold == []


def refusing_path(path: str, really: Callable) -> Callable:
    """Return a call of `os` that gets no answer of one path's disk."""

    def look(asked, *args: object, **named: object) -> object:
        if str(asked) == path:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return really(asked, *args, **named)

    return look


@pytest.mark.parametrize("known", [True, False])
async def test_a_restore_whose_processes_ran_already_is_over_before_the_stop(
    node, monkeypatch, known: bool
) -> None:
    """So is one of which nobody can tell: only what has not begun for certain is broken off."""
    node.archive()
    pod = node.containerd.pod()
    container = await node.create(pod, restore="saved")
    gate = Gate(node, "StartContainer")
    starting = asyncio.ensure_future(node.start(container))
    await gate.reached.wait()
    over = node.paths.restores / container / "work" / "stats-restore"
    over.touch()
    with monkeypatch.context() as patched:
        for name in ("stat", "lstat") if not known else ():
            patched.setattr(os, name, refusing_path(str(over), getattr(os, name)))
        stopping = await no_sooner(node.stop_pod(pod))
        gate.open.set()
        await starting
        await stopping
    again = await node.create(node.containerd.pod(), restore="saved")
    await node.start(again)
    assert node.containerd.cold == [again]


@pytest.mark.parametrize("whole", [False, True], ids=["container", "pod"])
async def test_a_restore_being_prepared_is_undone_for_a_stop(node, whole: bool) -> None:
    node.archive()
    pod = node.containerd.pod()
    gate = Gate(node, "Snapshots/Mounts")
    creating = asyncio.ensure_future(node.create(pod, restore="saved"))
    await gate.reached.wait()
    [container] = node.containerd.bodies
    if whole:
        stopping = asyncio.ensure_future(node.stop_pod(pod))
    else:
        request = api_pb2.StopContainerRequest(container_id=container[:12])
        stopping = asyncio.ensure_future(node.cri.StopContainer(request))
    async with asyncio.timeout(5):
        assert (await failure_of(creating)).code() is grpc.StatusCode.ABORTED
        await stopping
    assert not node.containerd.bodies and not node.containerd.leases
    await node.forget_preparations(pod)
    assert node.state() == []


async def test_a_stop_of_a_pod_reaches_containerd_whatever_fails_here(
    node, monkeypatch, caplog
) -> None:
    async def fails(record: AddressRecord) -> None:
        raise OSError("the kernel refuses")

    monkeypatch.setattr(address, "put_back", fails)
    pod = node.containerd.pod()
    state = InterfaceState(name="eth0", mac="02:00:00:00:00:01", mtu_bytes=1500, addresses=())
    record = AddressRecord(
        sandbox=SandboxId(pod.id), netns="/x", own=state, preserved=state, host_device="b"
    )
    node.flows.addresses.records.remember(record)
    await node.stop_pod(pod)
    assert not node.containerd.pods[pod.id].ready
    assert "the kernel refuses" in caplog.text
    assert node.flows.addresses.records.sandboxes() == [pod.id]  # for the next attempt
    await node.remove_pod(pod)
    assert not node.containerd.pods


async def test_removing_a_pod_asks_nothing_of_others(node) -> None:
    node.archive()
    mine, other = node.containerd.pod(), node.containerd.pod(uid="other")
    container = await node.create(mine, restore="saved")
    await node.create(other, restore="saved")
    (node.paths.restores / "0stray").write_text("no directory")
    await node.remove_pod(mine)
    await node.relay.calls.until_finished()
    assert not (node.paths.restores / container).exists()
    assert len(list(node.paths.restores.iterdir())) == 2


async def test_nothing_begins_in_a_pod_that_a_checkpoint_is_about_to_cut_off(node) -> None:
    pod = node.containerd.pod()
    source, other = [await node.create(pod, name=name) for name in ("source", "other")]
    locks = node.flows.locks
    with (
        locks.hold(ContainerId(source), "checkpoint", sandbox=SandboxId(pod.id)) as dump,
        locks.cutting_off(dump),
    ):
        assert (await failure_of(node.start(other))).code() is grpc.StatusCode.ABORTED
        assert (await failure_of(node.create(pod))).code() is grpc.StatusCode.ABORTED
        elsewhere = node.containerd.pod(uid="elsewhere")
        await node.start(await node.create(elsewhere))
    await node.start(other)


async def test_a_start_that_is_refused_is_none_to_who_cuts_its_pod_off(node) -> None:
    """Counted all the same, it had the checkpoint refused too."""
    pod = node.containerd.pod()
    source, sidecar = [await node.create(pod, name=name) for name in ("source", "sidecar")]
    locks, seen = node.flows.locks, []

    async def look(request: object) -> None:
        seen.append(locks.starts())

    with (
        locks.hold(ContainerId(source), "checkpoint", sandbox=SandboxId(pod.id)) as dump,
        locks.cutting_off(dump),
    ):
        node.containerd.before = {"ListContainers": look}
        assert (await failure_of(node.start(sidecar))).code() is grpc.StatusCode.ABORTED
    assert seen == [frozenset()]


async def test_a_start_that_containerd_is_busy_with_is_seen_by_who_cuts_its_pod_off(node) -> None:
    """It takes a second there, and its container does not run before its end."""
    pod = node.containerd.pod()
    source, sidecar = [await node.create(pod, name=name) for name in ("source", "sidecar")]
    await node.start(source)
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def slow(request: object) -> None:
        begun.set()
        await may_end.wait()

    async def others() -> int:
        flows = node.flows
        found = await flows.cri.container(source)
        starts = flows.locks.starts()
        return await resolve.neighbours(found, cri=flows.cri, starts=starts)

    assert await others() == 0
    node.containerd.before = {"StartContainer": slow}
    starting = asyncio.ensure_future(node.start(sidecar))
    await begun.wait()
    assert await others() == 1
    may_end.set()
    await starting
    assert await others() == 1
    assert node.flows.locks.starts() == frozenset()


@pytest.fixture
async def held(node, monkeypatch):
    """Connections of a stopped container that wait."""

    async def loosen(addresses: object) -> None:
        """Need no netlink."""

    monkeypatch.setattr(neighbours, "loosen", loosen)
    node.paths.held.mkdir(parents=True)
    record = held_record(archive="/a.tar")
    node.paths.held_sandbox(record.sandbox).write_bytes(heldrecord.CODEC.encode(record))
    node.flows.held.committed(record, record.containers[0].id)
    return record


async def test_an_ordinary_start_needs_no_verbose_status_while_connections_wait(node, held) -> None:
    pod = node.containerd.pod()
    pod.verbose = False
    container = await node.create(pod)
    await node.start(container)

    async def fails(request: object) -> None:
        raise AssertionError("no answer")

    node.containerd.before["ListContainers"] = fails
    await node.start(await node.create(pod, attempt=1))
    assert node.flows.held.records.sandboxes() == [held.sandbox]


async def test_a_pod_of_two_stacks_that_gets_an_address_that_waits_ends_the_wait(
    node, held, monkeypatch
) -> None:
    monkeypatch.setattr("crishim.kernel.net.packet.send_packets", lambda packets: None)
    pod = node.containerd.pod(ip="fd00::9")
    pod.more_ips = held.waiting
    await node.start(await node.create(pod))
    assert node.flows.held.records.of_addresses(held.waiting) is None


async def test_calls_for_what_a_crash_has_left_wait_for_recovery(node) -> None:
    node.archive()
    pod = node.containerd.pod()
    container = await node.create(pod, restore="saved")
    node.flows.locks.recovered.expect([pod.id, container])
    starting = await no_sooner(node.start(container))
    stopping = await no_sooner(node.stop_pod(pod))
    other = node.containerd.pod(uid="other")
    await node.start(await node.create(other, restore="saved"))
    await node.stop_pod(other)
    assert len(node.containerd.revived) == 1
    node.flows.locks.recovered.done(pod.id, container)
    await asyncio.gather(starting, stopping, return_exceptions=True)
    assert not node.containerd.pods[pod.id].ready


def refusing(code: grpc.StatusCode, times: int):
    """Return what lets the first calls of a method fail."""
    left = [times]

    async def refuse(request: object) -> None:
        if left[0]:
            left[0] -= 1
            raise Refused(code, "containerd ends")

    return refuse


async def test_a_containerd_that_restarts_between_delete_and_create_is_awaited(node) -> None:
    node.archive()
    node.containerd.before["Containers/Create"] = refusing(grpc.StatusCode.UNAVAILABLE, 2)
    container = await node.create(node.containerd.pod(), restore="saved")
    await node.start(container)
    assert node.containerd.revived == [container]
    assert not node.containerd.leases


async def test_a_record_that_containerd_does_not_take_back_is_kept_until_it_does(node) -> None:
    archive = node.archive()
    container = ContainerId(await node.create(node.containerd.pod()))
    options = RestoreOptions()
    node.containerd.before["Containers/Create"] = refusing(grpc.StatusCode.INTERNAL, 1000)
    with pytest.raises(RuntimeRefused):
        await node.flows.restorer.prepare(container, archive, options, phases=Phases())
    assert container not in node.containerd.records
    body = node.containerd.bodies.pop(container)  # a containerd that starts again does not know it
    await node.flows.leftovers.sweep()
    assert (node.paths.restores / container / "record").exists()
    node.containerd.before.clear()
    await node.flows.leftovers.sweep()
    assert container in node.containerd.records and not node.containerd.leases
    node.containerd.bodies[container] = body
    assert (await failure_of(node.start(container))).code() is grpc.StatusCode.UNKNOWN
    assert node.containerd.cold == []


async def test_a_create_that_fails_half_way_leaves_nothing(node) -> None:
    node.archive()
    node.containerd.before["Containers/Create"] = refusing(grpc.StatusCode.INTERNAL, 1)
    pod = node.containerd.pod()
    await failure_of(node.create(pod, restore="saved"))
    assert not node.containerd.bodies and not node.containerd.records
    assert not node.containerd.leases and node.state() == []
    await node.start(await node.create(pod, restore="saved"))
    assert len(node.containerd.revived) == 1


def crash(node: Node, container: str) -> None:
    """Let a container that runs end by itself."""
    node.containerd.bodies[container].state = api_pb2.CONTAINER_EXITED


async def test_a_full_disk_after_the_start_lets_no_pod_be_restored_twice(node, monkeypatch) -> None:
    node.archive()
    pod = node.containerd.pod()
    container = await node.create(pod, restore="saved")
    gate = Gate(node, "StartContainer")
    starting = asyncio.ensure_future(node.start(container))
    await gate.reached.wait()

    def full(path, data, **_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device", path)

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "write_file", full)
        gate.open.set()
        await starting
    crash(node, container)
    await node.remove_pod(pod)
    await node.relay.calls.until_finished()
    again = await node.create(node.containerd.pod(), restore="saved", attempt=1)
    assert node.containerd.revived == [container]
    assert node.flows.leftovers.waits(again) is None
    later = Restored(node.paths)  # as the next daemon reads it
    assert later.before(pod_uid="uid", container="counter")


async def test_a_full_disk_before_the_start_lets_nothing_begin(node, monkeypatch) -> None:
    node.archive()
    container = await node.create(node.containerd.pod(), restore="saved")

    def full(path, data, **_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device", path)

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "write_file", full)
        error = await failure_of(node.start(container))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert node.containerd.running() == []
    await node.start(container)
    assert node.containerd.revived == [container]


@pytest.mark.parametrize("ran", [True, False])
async def test_a_restore_that_a_crash_left_unsettled_is_settled_by_what_containerd_says(
    node, ran: bool
) -> None:
    node.archive()
    pod = node.containerd.pod()
    first = ContainerId(await node.create(pod, restore="saved"))
    node.flows.restored.begin(pod_uid="uid", container="counter", into=first)
    if ran:
        node.containerd.bodies[first].started_at = 1
        crash(node, first)
    await node.start(await node.create(pod, restore="saved", attempt=1))
    assert bool(node.containerd.cold) is ran and bool(node.containerd.revived) is not ran


@pytest.mark.parametrize("why", ["containerd does not know", "is at work"])
async def test_what_may_still_come_to_life_is_not_restored_in_another_container(
    node, monkeypatch, why: str
) -> None:
    node.archive()
    pod = node.containerd.pod()
    first = ContainerId(await node.create(pod, restore="saved"))
    node.flows.restored.begin(pod_uid="uid", container="counter", into=first)
    with monkeypatch.context() as patched:
        if why == "is at work":
            patched.setattr(atwork, "tool_of", lambda _: 7)
            patched.setattr(atwork, "is_tool", lambda *_: True)
        else:
            node.containerd.bodies[first].state = api_pb2.CONTAINER_UNKNOWN
        error = await failure_of(node.create(pod, restore="saved", attempt=1))
        assert error.code() is grpc.StatusCode.UNAVAILABLE and why in error.details()
        assert node.flows.restored.unsettled(pod_uid="uid", container="counter") == first
    node.containerd.bodies[first].state = api_pb2.CONTAINER_CREATED
    await node.start(await node.create(pod, restore="saved", attempt=1))
    assert len(node.containerd.revived) == 1


async def test_where_nobody_knows_it_is_neither_restored_again_nor_started_cold(node) -> None:
    node.archive()
    pod = node.containerd.pod()
    node.flows.restored.begin(pod_uid="uid", container="counter", into=ContainerId("gone"))
    error = await failure_of(node.create(pod, restore="saved"))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "neither restored again nor started cold" in error.details()
    assert not node.containerd.bodies


async def test_a_pod_keeps_its_mark_while_it_has_no_sandbox(node) -> None:
    node.archive()
    pod = node.containerd.pod()
    container = await node.create(pod, restore="saved")
    await node.start(container)
    await node.stop_pod(pod)
    await node.remove_pod(pod)
    await node.relay.calls.until_finished()
    again = await node.create(node.containerd.pod(), restore="saved", attempt=1)
    await node.start(again)
    assert node.containerd.cold == [again]


CRIU_SAYS = "(00.012345)      7: Error (criu/files-reg.c:2300): Can't open file data/journal\n"


@pytest.mark.parametrize(
    ("log", "final"), [("", False), ("(00.000001) Version: 4.2\n", False), (CRIU_SAYS, True)]
)
async def test_a_pod_that_prefers_cold_starts_cold_for_what_criu_says_only(
    node, log: str, final: bool
) -> None:
    node.archive()
    pod = node.containerd.pod()
    words = {"restore": "saved", "on_restore_failure": "cold"}
    first = await node.create(pod, **words)
    if log:
        node.containerd.criu_error = log
    else:
        node.containerd.before["StartContainer"] = refusing(grpc.StatusCode.UNKNOWN, 1)
    await failure_of(node.start(first))
    node.containerd.criu_error = ""
    await node.start(await node.create(pod, attempt=1, **words))
    assert bool(node.containerd.cold) is final and bool(node.containerd.revived) is not final


async def test_a_store_that_never_answers_holds_up_who_asks_for_it_only(node, monkeypatch) -> None:
    asked, answer = threading.Event(), threading.Event()

    def look(path: Path) -> bool:
        assert threading.current_thread() is not threading.main_thread(), "the loop looks itself"
        asked.set()
        answer.wait()
        return False

    monkeypatch.setattr(store, "_is_file", look)
    waiting = asyncio.ensure_future(node.create(node.containerd.pod(uid="other"), image="busybox"))
    try:
        async with asyncio.timeout(5):
            while not asked.is_set():
                assert not waiting.done()
                await asyncio.sleep(0.001)
            await node.start(await node.create(node.containerd.pod(), image="sha256:" + "a" * 64))
        assert not waiting.done()
    finally:
        answer.set()
    await node.start(await waiting)
    assert len(node.containerd.cold) == 2


@pytest.mark.parametrize("copied", [True, False], ids=["still copied", "long here"])
async def test_damage_that_is_found_at_the_start_is_asked_whether_it_is_still_copied(
    node, copied: bool
) -> None:
    archive = node.archive()
    if not copied:
        os.utime(archive, (1, 1))
    pod = node.containerd.pod()
    words = {"restore": "saved", "on_restore_failure": "cold"}
    first = await node.create(pod, **words)
    (node.paths.restores / first / "carried").write_bytes(b"{")
    assert (await failure_of(node.start(first))).code() is grpc.StatusCode.DATA_LOSS
    await node.start(await node.create(pod, attempt=1, **words))
    assert bool(node.containerd.revived) is copied and bool(node.containerd.cold) is not copied


@pytest.mark.parametrize(
    ("code", "final"),
    [
        (grpc.StatusCode.UNAVAILABLE, False),
        (grpc.StatusCode.DEADLINE_EXCEEDED, False),
        (grpc.StatusCode.UNKNOWN, False),
        (grpc.StatusCode.NOT_FOUND, True),
    ],
)
async def test_a_registry_out_of_reach_is_no_reason_to_start_cold(node, code, final: bool) -> None:
    node.archive()
    pod = node.containerd.pod()
    node.containerd.images.clear()
    node.containerd.before["PullImage"] = refusing(code, 1)
    words = {"restore": "saved", "on_restore_failure": "cold"}
    await failure_of(node.create(pod, **words))
    await node.start(await node.create(pod, attempt=1, **words))
    assert bool(node.containerd.cold) is final and bool(node.containerd.revived) is not final


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.EROFS, errno.ESTALE])
async def test_a_disk_that_refuses_for_now_is_no_reason_to_start_cold(
    node, monkeypatch, number: int
) -> None:
    archive = node.archive()
    pod = node.containerd.pod()
    words = {"restore": "saved", "on_restore_failure": "cold"}
    really = os.open

    def refuses(path, *args: object, **named: object) -> int:
        if str(path) == str(archive):
            raise OSError(number, os.strerror(number), str(path))
        return really(path, *args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuses)
        await failure_of(node.create(pod, **words))
    await node.start(await node.create(pod, attempt=1, **words))
    assert node.containerd.cold == [] and len(node.containerd.revived) == 1


async def test_a_checkpoint_of_another_namespace_is_as_if_there_were_none(node) -> None:
    node.archive(pod_namespace="elsewhere")
    pod = node.containerd.pod()
    words = {"on_restore_failure": "cold"}
    for name in ("saved", "none"):
        error = await failure_of(node.create(pod, restore=name, **words))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert error.details() == f"there is no checkpoint {name} (see `crishim list`)"
    assert not node.containerd.bodies


async def test_an_image_of_the_node_is_meant_before_a_checkpoint_of_that_name(node, caplog) -> None:
    node.archive("nginx")
    caplog.set_level("INFO")
    pod = node.containerd.pod()
    node.containerd.images.add("nginx")
    await node.start(await node.create(pod, image="nginx"))
    assert "the image is taken" in caplog.text
    node.containerd.images.discard("nginx")
    await node.start(await node.create(pod, image="nginx", attempt=1))
    assert len(node.containerd.cold) == len(node.containerd.revived) == 1


@pytest.mark.parametrize(("sysctls", "looked"), [({}, 1), ({"net.mptcp.enabled": "1"}, 0)])
async def test_a_pod_that_asks_for_mptcp_itself_keeps_it(
    node, tmp_path, monkeypatch, sysctls, looked
) -> None:
    switch = tmp_path / "enabled"
    switch.write_text("1")
    monkeypatch.setattr(mptcp, "_MPTCP", switch)
    asked = api_pb2.RunPodSandboxRequest()
    asked.config.linux.sysctls.update(sysctls)
    await node.cri.RunPodSandbox(asked)
    assert node.containerd.counts["PodSandboxStatus"] == looked
