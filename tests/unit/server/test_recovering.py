"""What an earlier daemon left, while calls come in: each pod is dealt with on its own."""

import asyncio
import os
import subprocess
from types import SimpleNamespace

import pytest

from crishim._proto.runtime.v1 import api_pb2
from crishim.container.resolve import Resolver
from crishim.dump import dumper, guardian
from crishim.dump.request import DumpRequest
from crishim.errors import ToolFailed, Unavailable
from crishim.flow.phases import Phases
from crishim.housekeeping import recovery
from crishim.ids import ContainerId
from crishim.kernel import tree
from crishim.network import address, neighbours, strays
from crishim.restore import plans, settle
from crishim.store.pins import Pins
from tests.unit.server.flows import serving_node


@pytest.fixture
async def node(tmp_path, monkeypatch):
    async def nothing(*_, **__):
        """Need no nftables, no images."""

    monkeypatch.setattr(strays, "sweep", nothing)
    monkeypatch.setattr(address, "sweep", nothing)
    monkeypatch.setattr(Pins, "reconcile", nothing)
    monkeypatch.setattr(recovery, "clear_mounts", nothing)
    monkeypatch.setattr(neighbours, "sweep", lambda **_: None)
    async with serving_node(tmp_path) as node:
        yield node


async def test_a_slow_restore_in_one_pod_holds_up_no_other(node, monkeypatch):
    """CRIU of a big process goes on after a crash; its own pod's calls wait for it, no others."""
    node.archive()
    slow, other = [node.containerd.pod(uid=uid) for uid in ("slow", "other")]
    first, second = [await node.create(pod, restore="saved") for pod in (slow, other)]
    third = await node.create(node.containerd.pod(uid="third"))
    (node.paths.dumps / third).mkdir(parents=True)  # of a dump, in order before containerd answers
    over = asyncio.Event()

    async def settled(directory, **_):
        if directory.name == first:
            await over.wait()

    monkeypatch.setattr(recovery, "settled", settled)
    node.flows.recovery.load()
    await node.flows.recovery.begin()
    running = asyncio.ensure_future(node.flows.recovery.run())
    await asyncio.wait_for(node.start(second), 5)
    stop = api_pb2.StopContainerRequest(container_id=third)
    await asyncio.wait_for(node.cri.StopContainer(stop), 5)
    waiting = asyncio.ensure_future(node.start(first))
    await asyncio.wait([waiting], timeout=0.1)
    assert not waiting.done()
    over.set()
    await asyncio.wait_for(asyncio.gather(running, waiting), 5)
    assert sorted(node.containerd.revived) == sorted([first, second])


def at_work(directory):
    """A runc that is at work in a directory and does not end by itself."""
    words = ["runc", "-c", "read x", "--work-path", str(directory)]
    tool = subprocess.Popen(
        words, executable="/bin/sh", stdin=subprocess.PIPE, start_new_session=True
    )
    while not guardian.is_tool(tool.pid, directory):
        pass
    return tool


async def is_waited_for(node, identity) -> bool:
    try:
        await node.flows.locks.recovered.wait(identity, timeout_s=0)
    except Unavailable:
        return True
    return False


@pytest.fixture
def left(node, monkeypatch):
    """What a dump has left of container d1, and the CRIU that is at work there."""
    monkeypatch.setattr(recovery, "_TOOLS_S", 0.05)
    work = node.paths.dumps / "d1"
    work.mkdir(parents=True)
    return work, at_work(work)


async def test_a_criu_of_a_dump_that_does_not_end_holds_up_no_other_pod(node, left):
    """It hangs on a dead server of files: nothing was put in order, in no pod."""
    node.archive()
    other = await node.create(node.containerd.pod(uid="other"), restore="saved")
    (stuck, tool), good = left, node.paths.dumps / "d2"
    good.mkdir()
    keeper = node.flows.recovery
    keeper.load()
    async with asyncio.timeout(5):
        await keeper.begin()
        assert not good.exists()
        await keeper.run()
        assert await is_waited_for(node, "d1")
        await node.start(other)
        await keeper.tend()
        assert stuck.exists() and await is_waited_for(node, "d1") and keeper.restless
        tool.communicate()
        await keeper.tend()
    assert not stuck.exists() and not await is_waited_for(node, "d1") and not keeper.restless


@pytest.mark.parametrize("seen_by", ["run", "tend"])
async def test_the_files_of_a_dump_go_while_its_criu_is_at_work(node, left, seen_by):
    """Calls wait for the CRIU, not for its files: who has removed them never told."""
    work, tool = left
    keeper = node.flows.recovery
    keeper.load()
    async with asyncio.timeout(5):
        await keeper.begin()
        if seen_by == "tend":
            await keeper.run()
        tree.remove_tree(work)
        await (keeper.run() if seen_by == "run" else keeper.tend())
        assert await is_waited_for(node, "d1") and keeper.restless
        tool.communicate()
        await keeper.tend()
    assert not await is_waited_for(node, "d1") and not keeper.restless


async def test_a_checkpoint_waits_for_what_an_earlier_one_has_left(node, monkeypatch):
    """As a restore does; its CRIU would come upon the earlier one's."""
    wanted = DumpRequest(container="d1", output=node.paths.store / "a.tar")
    container, sandbox = SimpleNamespace(id="d1"), SimpleNamespace(id="5a")

    async def resolve(*_, **__):
        return SimpleNamespace(container=container, sandbox=sandbox)

    def dump(*_, **__):
        raise ToolFailed("runc", 1)

    monkeypatch.setattr(Resolver, "source", resolve)
    monkeypatch.setattr(dumper, "Dump", dump)
    recovered = node.flows.locks.recovered
    recovered.expect(["d1", "5a"])
    dumping = asyncio.ensure_future(node.flows.dumper.dump(wanted, Phases()))
    for identity in ("d1", "5a"):
        await asyncio.wait([dumping], timeout=0.05)
        assert not dumping.done()
        recovered.done(identity)
    with pytest.raises(ToolFailed):
        await asyncio.wait_for(dumping, 5)


async def test_a_criu_of_a_restore_that_does_not_end_holds_up_no_other_pod(node, monkeypatch):
    monkeypatch.setattr(recovery, "_TOOLS_S", 0.05)
    monkeypatch.setattr(settle, "_TAKING_BACK_S", 0)
    node.archive()
    pods = [node.containerd.pod(uid=uid) for uid in ("stuck", "other")]
    stuck, other = [await node.create(pod, restore="saved") for pod in pods]
    tool = at_work(node.paths.restores / stuck)
    keeper = node.flows.recovery
    keeper.load()
    async with asyncio.timeout(5):
        await keeper.begin()
        await keeper.run()
        for identity in (stuck, pods[0].id):
            assert await is_waited_for(node, identity)
        await node.start(other)
        await keeper.tend()
        assert await is_waited_for(node, stuck) and keeper.restless
        tool.communicate()
        await keeper.tend()
        await node.start(stuck)
    assert sorted(node.containerd.revived) == sorted([stuck, other])
    assert not keeper.restless


async def test_a_restore_that_came_to_life_is_finished_and_not_begun_again(node):
    node.archive()
    pod = node.containerd.pod()
    container = await node.create(pod, restore="saved")
    await node.flows.cri.start_container(ContainerId(container))  # and the daemon was killed
    node.flows.recovery.load()
    await node.flows.recovery.run()
    assert not (node.paths.restores / container / "pending").exists()
    assert node.flows.restored.before(pod_uid="uid", container="counter")


async def test_one_damaged_plan_costs_the_others_nothing(node):
    node.archive()
    pods = [node.containerd.pod(uid=uid) for uid in ("damaged", "good")]
    damaged, good = [await node.create(pod, restore="saved") for pod in pods]
    (node.paths.restores / damaged / "pending").write_bytes(b"\xff")
    node.flows.recovery.load()
    await node.flows.recovery.run()
    assert node.flows.recovery.restless
    await asyncio.wait_for(node.stop_pod(pods[0]), 5)
    await node.start(good)
    assert node.containerd.revived == [good]


async def test_what_fails_is_tried_again_until_it_does_not(node, monkeypatch):
    attempts = []

    async def reconcile(_):
        attempts.append(1)
        if len(attempts) < 3:
            raise ToolFailed("ctr", 1)

    monkeypatch.setattr(Pins, "reconcile", reconcile)
    node.flows.recovery.load()
    await node.flows.recovery.run()
    assert node.flows.recovery.restless
    for _ in range(3):
        await node.flows.recovery.tend()
    assert len(attempts) == 3
    assert not node.flows.recovery.restless


async def test_a_wrapper_that_is_wiped_while_the_daemon_runs_is_put_back(node):
    """Until the next start nobody could stop the container, nor its pod."""
    node.archive()
    pod = node.containerd.pod()
    container, ordinary = await node.create(pod, restore="saved"), await node.create(pod)
    await node.start(container)
    node.flows.recovery.load()
    await node.flows.recovery.run()
    directory = node.paths.restores / container
    tree.remove_tree(directory)
    node.containerd.records[pod.id] = node.containerd.records[ordinary]  # the handler's runc
    await node.flows.recovery.tend()
    assert os.access(directory / plans.WRAPPER, os.X_OK)
    assert (directory / "runc").read_text().strip() == str(node.containerd.runc)
    await node.stop_pod(pod)
