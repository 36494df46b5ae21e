"""Archives that take longer to read than a kubelet waits for one create."""

import asyncio
import threading
import time

import grpc
import pytest

from crishim.archive import digest, reader
from crishim.errors import Busy
from crishim.restore import preparations
from tests.fakes.containerd import Pod
from tests.unit.criu_samples import one_process
from tests.unit.server.flows import Node, serving_node

WORDS = {"restore": "saved"}


@pytest.fixture
async def node(tmp_path):
    async with serving_node(tmp_path) as node:
        node.archive()
        yield node


class SlowDisk:
    """Reads an archive as slowly as the test likes."""

    def __init__(self, monkeypatch) -> None:
        self.quick = threading.Event()
        self.pause_s = 0.0
        self.readings = 0
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()
        monkeypatch.setattr(reader, "digest_range", self.read)

    def read(self, fd: int, offset: int, size: int, step=lambda count: None) -> str:
        with self._lock:
            self.readings += 1
            self.at_once += 1
            self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            while not self.quick.wait(0.002):
                step(0)
            time.sleep(self.pause_s)
            return digest.digest_range(fd, offset, size, step)
        finally:
            with self._lock:
                self.at_once -= 1

    async def is_read(self) -> None:
        async with asyncio.timeout(5):
            while not self.at_once:
                await asyncio.sleep(0.001)


@pytest.fixture
def disk(monkeypatch):
    disk = SlowDisk(monkeypatch)
    yield disk
    disk.quick.set()


async def given_up(node: Node, pod: Pod, disk: SlowDisk) -> None:
    """A create whose caller waits no longer."""
    call = node.cri.CreateContainer(node.request(pod, **WORDS))
    await disk.is_read()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    async with asyncio.timeout(5):
        while node.containerd.bodies:
            await asyncio.sleep(0.001)


async def test_an_archive_that_is_being_read_is_neither_removed_nor_replaced(node, disk) -> None:
    """No plan names it before the end; nobody else may take it away meanwhile."""
    archive = node.paths.store / "saved.tar"
    creating = asyncio.ensure_future(node.create(node.containerd.pod(), **WORDS))
    await disk.is_read()
    with pytest.raises(Busy, match="is being prepared to be restored from saved"):
        node.flows.needed.refuse(archive)
    disk.quick.set()
    container = await creating
    with pytest.raises(Busy, match="is to be restored from saved"):
        node.flows.needed.refuse(archive)
    await node.start(container)
    node.flows.needed.refuse(archive)


async def test_the_next_attempt_joins_what_the_first_began(node, disk) -> None:
    pod = node.containerd.pod()
    await given_up(node, pod, disk)
    readings = disk.readings
    creating = asyncio.ensure_future(node.create(pod, attempt=1, **WORDS))
    await asyncio.sleep(0.05)
    assert disk.at_once == readings
    disk.quick.set()
    await node.start(await creating)
    assert disk.readings == len(one_process(7))  # every entry once
    assert len(node.containerd.revived) == 1 and len(node.containerd.bodies) == 1
    assert list(node.paths.preparations.iterdir()) == []


async def test_a_result_that_nobody_waited_for_is_there_for_the_next_attempt(node, disk) -> None:
    pod = node.containerd.pod()
    await given_up(node, pod, disk)
    disk.quick.set()
    await asyncio.sleep(0.05)
    readings = disk.readings
    await node.start(await node.create(pod, attempt=1, **WORDS))
    assert disk.readings == readings


async def test_another_pod_and_another_archive_have_nothing_of_it(node, disk) -> None:
    pod, other = node.containerd.pod(), node.containerd.pod(uid="other")
    await given_up(node, pod, disk)
    disk.quick.set()
    await node.start(await node.create(other, **WORDS))
    readings = disk.readings
    (node.paths.store / "saved.tar").unlink()
    node.archive()
    await node.start(await node.create(pod, attempt=1, **WORDS))
    assert disk.readings > readings
    await node.forget_preparations(pod)


async def test_what_nobody_comes_for_is_removed(node, disk, monkeypatch) -> None:
    monkeypatch.setattr(preparations, "_KEPT_S", 0.05)
    await given_up(node, node.containerd.pod(), disk)
    disk.quick.set()
    async with asyncio.timeout(5):
        while list(node.paths.preparations.iterdir()):
            await asyncio.sleep(0.001)


async def test_a_pod_that_is_stopped_ends_it_at_once(node, disk) -> None:
    pod = node.containerd.pod()
    await given_up(node, pod, disk)
    await node.stop_pod(pod)
    async with asyncio.timeout(5):
        while disk.at_once or list(node.paths.preparations.iterdir()):
            await asyncio.sleep(0.001)
    assert not disk.quick.is_set()


@pytest.mark.parametrize("stopped", ["the first one", "both"])
async def test_a_pod_s_next_sandbox_takes_it_over(node, disk, stopped: str) -> None:
    first, second = node.containerd.pod(), node.containerd.pod()
    await given_up(node, first, disk)
    readings = disk.readings
    creating = asyncio.ensure_future(node.create(second, **WORDS))
    await asyncio.sleep(0.1)
    await node.stop_pod(first)
    await asyncio.sleep(0.05)
    assert disk.at_once == readings and not creating.done()
    if stopped == "both":
        await node.stop_pod(second)
        with pytest.raises(grpc.aio.AioRpcError):
            await creating
        async with asyncio.timeout(5):
            while disk.at_once or list(node.paths.preparations.iterdir()):
                await asyncio.sleep(0.001)
        return
    disk.quick.set()
    await node.start(await creating)
    assert disk.readings == len(one_process(7))


async def test_damage_found_when_nobody_waited_is_told_to_the_next_attempt(node, disk) -> None:
    pod = node.containerd.pod()
    archive = node.paths.store / "saved.tar"
    whole = bytearray(archive.read_bytes())
    whole[whole.index(one_process(7)["checkpoint/ids-7.img"]) + 13] ^= 1
    archive.write_bytes(whole)
    await given_up(node, pod, disk)
    disk.quick.set()
    await asyncio.sleep(0.05)
    readings = disk.readings
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await node.create(pod, attempt=1, **WORDS)
    assert refused.value.code() is grpc.StatusCode.DATA_LOSS
    assert disk.readings == readings


async def test_many_restores_take_turns_and_keep_nobody_else_waiting(node, disk) -> None:
    pods = [node.containerd.pod(uid=f"uid-{number}") for number in range(8)]
    creating = [asyncio.ensure_future(node.create(pod, **WORDS)) for pod in pods]
    await disk.is_read()
    async with asyncio.timeout(30):  # the disk stays slow until it is told otherwise
        await node.start(await node.create(node.containerd.pod(uid="ordinary")))
    disk.pause_s = 0.1
    disk.quick.set()
    await asyncio.wait(creating, return_when=asyncio.FIRST_COMPLETED)
    at_first = disk.readings
    await asyncio.gather(*creating)
    assert at_first < disk.readings, "the first waited for all others"
    assert disk.most_at_once <= 2 * 2  # two restores, two threads each


async def test_what_a_crash_has_left_of_it_is_removed(node) -> None:
    left = node.paths.preparations / "0123456789abcdef" / "tree"
    left.mkdir(parents=True)
    (left / "pages-1.img").write_bytes(b"memory")
    (node.paths.preparations / "0stray").write_text("no directory")
    await node.flows.leftovers.sweep()
    assert [path.name for path in node.paths.preparations.iterdir()] == ["0stray"]
