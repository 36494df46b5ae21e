"""The stages of a dump in another order than one container's, and with another taker of the memory.

Two containers of a pod are dumped as one: both ready before either is paused, both paused at the
same time, neither goes on before the memory of both is written. What breaks it off anywhere, or
fails, leaves both running.
"""

import asyncio
import contextlib
import itertools
import os
import threading

import pytest

from crishim.aio.undo import Undo
from crishim.archive.reader import ArchiveReader
from crishim.dump.fifo import ArchivePages
from crishim.dump.freeze import freeze, hold_connections, resume
from crishim.dump.memory import write_memory
from crishim.dump.pack import pack
from crishim.dump.parts import Parts
from crishim.dump.prepare import drain, prepare
from crishim.dump.publish import publish
from crishim.dump.request import DumpRequest
from crishim.errors import CrishimError, NoSpace, ToolFailed
from crishim.flow.phases import Phases
from crishim.ids import container_id
from tests.unit.dump.dumping import Node, Scene, Stepping, bulk_work_ends, new_loop

OTHER = container_id("d" * 64)


@pytest.fixture
def pod(tmp_path, monkeypatch):
    first = Node(tmp_path / "first", monkeypatch)
    second = Node(tmp_path / "second", None, id=OTHER, beside=first)
    yield first, second
    for node in (first, second):
        node.end()


def parts_of(scene, node) -> Parts:
    request = DumpRequest(container=node.id, output=node.target)
    phases = Phases(timeout_s=60)
    return Parts.make(scene.context(), node.source(), request, phases=phases)


async def dump_both(scene, pod, *, seen=None) -> None:
    """Dump the containers of a pod, stage by stage, each stage of both before the next of either.

    Args: seen: gets the names of the stages.
    """
    say = (lambda _: None) if seen is None else seen.append
    locks, sandbox = scene.locks, pod[0].source().sandbox.id
    with contextlib.ExitStack() as held:
        for node in pod:
            held.enter_context(locks.hold(node.id, "checkpoint", sandbox=sandbox))
        async with Undo() as undo:
            prepared = [await prepare(parts_of(scene, node), undo) for node in pod]
            say("prepared")
            gates = [await drain(each, undo) for each in prepared]
            say("drained")
            # Both at the same time: what is waited for in one lets the other go on.
            async with asyncio.TaskGroup() as group:
                freezing = [group.create_task(freeze(each, undo)) for each in prepared]
            frozen = [each.result() for each in freezing]
            say("frozen")
            for each in frozen:
                await hold_connections(each)
            async with asyncio.TaskGroup() as group:
                writing = [group.create_task(memory(each, undo)) for each in frozen]
            say("written")
            for each, gate in zip(frozen, gates, strict=True):
                await resume(each, gate)
            say("resumed")
            packed = [
                await pack(each, task.result(), freeze_us=each.elapsed_us)
                for each, task in zip(frozen, writing, strict=True)
            ]
            for each in packed:
                await publish(each)


async def memory(frozen, undo):
    sink = ArchivePages(writer=frozen.prepared.writer, trail=frozen.prepared.trail)
    return await write_memory(frozen, sink, undo)


def play(node, act):
    async def play_in_loop():
        await act(Scene(node))

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(play_in_loop())


def nothing_is_left(pod) -> list[bool]:
    """Check that both go on and that nothing but whole archives is there; return which are."""
    there = []
    for node in pod:
        assert node.alive and not node.frozen
        assert not node.held and not node.guarded
        assert list(node.paths.dumps.glob("*")) == []
        names = os.listdir(node.target.parent)
        assert names in ([], ["a.tar"])
        there.append(bool(names))
        if names:
            with ArchiveReader.open(node.target, trusted_owner=False) as reader:
                reader.verify()
                assert reader.read("checkpoint/pages-1.img") == node.pages
    assert bulk_work_ends()
    return there


def test_two_containers_are_paused_at_the_same_time(pod):
    first, second = pod
    seen, frozen = [], {}

    def look(node):
        def criu(_):
            frozen[node.id] = [each.frozen for each in pod], list(seen)

        return criu

    for node in pod:
        node.criu = look(node)
    play(first, lambda scene: dump_both(scene, pod, seen=seen))
    before = ["prepared", "drained", "frozen"]
    assert frozen == {node.id: ([True, True], before) for node in pod}
    assert nothing_is_left(pod) == [True, True]
    assert first.pages != second.pages


def test_the_memory_of_both_is_written_at_the_same_time(pod):
    """Each CRIU waits until the other one writes too."""
    meeting = threading.Barrier(2, timeout=20)
    for node in pod:
        node.criu = lambda _: meeting.wait()
    play(pod[0], lambda scene: dump_both(scene, pod))
    assert nothing_is_left(pod) == [True, True]


@pytest.mark.parametrize("failing", [0, 1])
def test_one_that_fails_lets_both_go_on(pod, failing):
    def criu_fails(_):
        raise ToolFailed("runc checkpoint", 1)

    pod[failing].criu = criu_fails

    async def act(scene):
        with pytest.raises(ExceptionGroup) as raised:
            await dump_both(scene, pod)
        assert raised.group_contains(ToolFailed)

    play(pod[0], act)
    assert nothing_is_left(pod) == [False, False]


@pytest.mark.parametrize("dying", [0, 1])
def test_a_guardian_that_has_died_is_missed_before_anything_is_dumped(pod, dying):
    pod[dying].guardian_dies = True

    async def act(scene):
        with pytest.raises(ExceptionGroup) as raised:
            await dump_both(scene, pod)
        assert raised.group_contains(ChildProcessError)

    play(pod[0], act)
    assert nothing_is_left(pod) == [False, False]


@pytest.mark.parametrize("late", [False, True])
def test_both_go_on_wherever_it_is_broken_off(pod, late):
    """At each suspension of theirs, or as what is waited for there has ended."""
    ends = set()
    for point in itertools.count(1):
        for node in pod:
            node.start()
        count = 0

        async def act(scene, point=point):
            nonlocal count

            def told(awaited):
                nonlocal count
                count += 1
                if count != point:
                    return
                if late and awaited is not None:
                    awaited.add_done_callback(lambda _: dumping.cancel())
                else:
                    loop.call_soon(dumping.cancel)

            loop = asyncio.get_running_loop()
            loop.set_task_factory(
                lambda loop, coro, **options: asyncio.Task(
                    Stepping(coro, told), loop=loop, **options
                )
            )
            dumping = loop.create_task(dump_both(scene, pod))
            await asyncio.wait([dumping])
            loop.set_task_factory(None)
            if not dumping.cancelled():
                dumping.result()
            assert not any(scene.locks.busy(node.id) for node in pod)

        play(pod[0], act)
        ends.add(tuple(nothing_is_left(pod)))
        if count < point:
            break
    assert point > 100
    assert (False, True) not in ends  # the first archive has its name before the second one
    assert ends >= {(False, False), (True, True)}


class Collected:
    """A page sink that is no archive: keeps the pages in memory, as a page server would."""

    runc_args = ("--page-server", "192.0.2.1:27")

    def __init__(self, *, full=False) -> None:
        self.pages = b""
        self.full = full
        self.processes = 0
        self.left = False

    def receiver(self, images, *, processes):
        self.processes = processes
        return Collecting(self, images / "pages-1.img")


class Collecting:
    def __init__(self, sink, fifo) -> None:
        self._sink = sink
        self._fifo = fifo
        self._thread = threading.Thread(target=self._read)

    @property
    def received_bytes(self):
        return len(self._sink.pages)

    def _read(self):
        self._sink.pages = self._fifo.read_bytes()

    async def __aenter__(self):
        os.mkfifo(self._fifo)
        self._thread.start()
        return self

    async def finish(self):
        self._thread.join(timeout=20)
        if self._sink.full:
            raise NoSpace("the other side has no room")
        return self.received_bytes

    async def __aexit__(self, *_):
        self._thread.join(timeout=20)
        self._fifo.unlink()
        self._sink.left = True


async def dump_into(scene, node, sink):
    async with Undo() as undo:
        prepared = await prepare(parts_of(scene, node), undo)
        gate = await drain(prepared, undo)
        frozen = await freeze(prepared, undo)
        await hold_connections(frozen)
        written = await write_memory(frozen, sink, undo)
        await resume(frozen, gate)
        packed = await pack(frozen, written, freeze_us=frozen.elapsed_us)
        await publish(packed)
        return packed


def test_memory_goes_where_the_sink_says(pod):
    """The archive has all the rest; how much memory there was is in its manifest all the same."""
    sink = Collected()
    packed = []

    async def act(scene):
        packed.append(await dump_into(scene, pod[0], sink))

    node = pod[0]
    play(node, act)
    assert sink.pages == node.pages and sink.processes == 1 and sink.left
    assert " ".join(sink.runc_args) in " ".join(node.options.argv(node.id))
    with ArchiveReader.open(node.target, trusted_owner=False) as reader:
        reader.verify()
        names = [entry.name for entry in reader.manifest().entries]
    assert "checkpoint/pages-1.img" not in names and "checkpoint/files.img" in names
    assert packed[0].manifest.statistics.image_bytes > len(node.pages)


def test_a_sink_that_has_not_got_everything_fails_the_dump(pod):
    node = pod[0]

    async def act(scene):
        with pytest.raises(CrishimError, match="the other side has no room"):
            await dump_into(scene, node, Collected(full=True))

    play(node, act)
    assert node.alive and not node.frozen and not node.held
    assert os.listdir(node.target.parent) == []
