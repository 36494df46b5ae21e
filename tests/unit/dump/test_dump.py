"""The whole dump: broken off wherever it waits, and with each step of its undo failing.

The points are counted, not chosen: a run is broken off at its first suspension, the next one at its
second, until one comes to its end. Whatever happens the container goes on as before, or its whole
archive is there and it never runs again; and nobody waits for ever.
"""

import asyncio
import contextlib
import errno
import itertools
import logging
import os
import shutil
import subprocess
import threading

import pytest

from crishim.aio.undo import Undo
from crishim.dump import dump as dump_module
from crishim.dump import ending
from crishim.dump.dumper import Dumper, Targets
from crishim.dump.request import DumpRequest
from crishim.errors import AlreadyExists, Busy, CrishimError, NoSpace, Precondition, ToolFailed
from crishim.flow.phases import Phases
from crishim.flow.turns import Turns
from crishim.housekeeping.abandoned import Abandoned
from crishim.kernel import atomic, cgroup
from crishim.sandbox.evidence import NotDurable
from crishim.sandbox.held import HeldSandboxes
from crishim.sandbox.heldrecord import HeldContainer
from tests.unit.dump.dumping import ID, SANDBOX, Node, Scene, Stepping, bulk_work_ends, new_loop

STOP = {"stop": True}


@pytest.fixture
def node(tmp_path, monkeypatch):
    node = Node(tmp_path, monkeypatch)
    yield node
    node.end()


def play(node, act):
    """Run a coroutine function of one scene to its end in a loop of its own; return the scene."""

    async def play_in_loop():
        scene = Scene(node)
        await act(scene)
        return scene

    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(play_in_loop())


def dump(node, *, restore=None, **options):
    """Dump once, with a restore that waits if `restore` says how; return the scene and the error.

    Args: restore: options of `Scene.restore`.
    """
    error = None

    async def act(scene):
        nonlocal error
        waiting = None
        if restore is not None:
            waiting = asyncio.ensure_future(scene.restore(**restore))
            await asyncio.sleep(0)
        try:
            await scene.dump(**options)
        except (CrishimError, OSError) as raised:
            error = raised
        if waiting is not None:
            await asyncio.gather(waiting, return_exceptions=True)

    return play(node, act), error


async def broken_off(scene, point, break_off, *, waits, **options) -> int:
    """Dump, and do something when the dump or a task of its own is suspended once more.

    Args:
        point: how often it has been suspended by then.
        break_off: called with the dump's task and what it waits for.
        waits: a restore waits for the checkpoint.
    Returns: how often it was suspended.
    """
    count = 0
    restore = asyncio.ensure_future(scene.restore()) if waits else None
    await asyncio.sleep(0)

    def told(awaited) -> None:
        nonlocal count
        count += 1
        if count == point:
            break_off(dumping, awaited)

    def factory(loop, coro, **options):
        return asyncio.Task(Stepping(coro, told), loop=loop, **options)

    loop = asyncio.get_running_loop()
    loop.set_task_factory(factory)
    dumping = loop.create_task(scene.dump(**options))
    await asyncio.wait([dumping])
    loop.set_task_factory(None)
    if restore is not None:
        await asyncio.gather(restore, return_exceptions=True)
    if not dumping.cancelled():
        with contextlib.suppress(Busy):
            dumping.result()
    return count


def everywhere(node, break_off, *, waits, **options) -> set[str]:
    """Break a dump off at its first suspension, its second, until the last; return the ends."""
    ends = set()
    for point in itertools.count(1):
        node.start()
        count = 0

        async def act(scene, point=point):
            nonlocal count
            count = await broken_off(
                scene, point, lambda *at: break_off(scene, *at), waits=waits, **options
            )

        scene = play(node, act)
        ends.add(end := scene.verdict())
        if waits:
            assert bool(scene.restored) == (end == "ended")
        if count < point:
            assert point > 40
            return ends


WAYS = pytest.mark.parametrize(
    ("options", "waits"),
    [({}, False), (STOP, False), (STOP, True)],
    ids=["goes on", "stops", "is waited for"],
)


@WAYS
def test_cancelled_wherever_it_waits(node, options, waits):
    def at_once(_, dumping, __):
        asyncio.get_running_loop().call_soon(dumping.cancel)

    ends = everywhere(node, at_once, waits=waits, **options)
    assert ends == {"goes on", "ended" if options else "goes on, archive"}


@WAYS
def test_cancelled_as_what_it_waits_for_has_ended(node, options, waits):
    """What a thread has done by then must not be lost."""

    def late(_, dumping, awaited):
        if awaited is None:
            dumping.cancel()
        else:
            awaited.add_done_callback(lambda _: dumping.cancel())

    ends = everywhere(node, late, waits=waits, **options)
    assert ends == {"goes on", "ended" if options else "goes on, archive"}


@WAYS
def test_the_container_is_stopped_wherever_it_waits(node, options, waits):
    """A stop breaks it off before its pause, and waits for it then."""
    broken = []

    def stop(scene, _, __):
        async def wait():
            async with scene.locks.leaving(ID):
                broken.append(not list(node.target.parent.iterdir()))

        stopping.append(asyncio.get_running_loop().create_task(wait()))

    stopping = []
    ends = everywhere(node, stop, waits=waits, **options)
    assert ends == {"goes on", "ended" if options else "goes on, archive"}
    assert set(broken) == {False, True}


@pytest.mark.parametrize("options", [{}, STOP], ids=["goes on", "stops"])
def test_bulk_work_stands_still_while_memory_is_written(node, options):
    ends = []
    node.criu = lambda _: ends.append(bulk_work_ends(within_s=0.05))
    scene, _ = dump(node, **options)
    assert ends == [False]
    scene.verdict()


def criu_fails(_):
    raise ToolFailed("runc checkpoint", 1)


def test_the_record_of_a_dump_that_failed_does_not_come_back_with_a_power_cut(node, monkeypatch):
    """The node would keep the pod's address from others then; no container waits for the disk."""
    fsync_dir, synced = atomic.fsync_dir, []

    def sync(path):
        if path == node.paths.held and not os.listdir(path):
            synced.append((node.frozen, node.held))
        fsync_dir(path)

    monkeypatch.setattr(atomic, "fsync_dir", sync)
    node.criu = criu_fails
    dump(node)
    assert synced == []
    dump(node, stop=True)
    assert synced == [(False, False)]


class Steps:
    """Lets one step of an undo fail, by its number, and counts how many are tried."""

    def __init__(self, monkeypatch) -> None:
        self.failing = self.tried = 0
        self.names = []
        steps = self

        class Failing(Undo):
            def push_async_callback(self, callback, /, *args, **kwds):
                async def step():
                    steps.tried += 1
                    steps.names.append(getattr(callback, "__qualname__", ""))
                    if steps.tried == steps.failing:
                        raise OSError(errno.EIO, os.strerror(errno.EIO))
                    await callback(*args, **kwds)

                return super().push_async_callback(step)

        monkeypatch.setattr(dump_module, "Undo", Failing)


@pytest.mark.parametrize(
    ("options", "restore"),
    [({}, None), (STOP, None), (STOP, {})],
    ids=["goes on", "stops", "stops and is waited for"],
)
def test_each_step_of_the_undo_fails(node, monkeypatch, options, restore, caplog):
    """All the others run, the container goes on, and its caller learns why the dump has failed."""
    node.criu = criu_fails
    steps = Steps(monkeypatch)
    dump(node, restore=restore, **options)
    total = steps.tried
    assert total > 4
    for failing in range(1, total + 1):
        node.start()
        caplog.clear()
        steps.failing, steps.tried = failing, 0
        scene, error = dump(node, restore=restore, **options)
        assert isinstance(error, ToolFailed)
        assert steps.tried == total
        assert node.alive and not node.frozen, steps.names[failing - 1]
        assert not scene.locks.busy(ID)
        assert "a step of the undo failed" in caplog.text
        if node.paths.dumps.exists():
            for left in node.paths.dumps.iterdir():
                subprocess.run(["rm", "-rf", left], check=True)


def test_a_freezer_that_cannot_be_written_is_left_to_the_guardian(node, monkeypatch):
    node.criu = criu_fails

    def refuse(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(cgroup, "thaw", refuse)
    _, error = dump(node)
    assert isinstance(error, ToolFailed)
    assert not node.frozen and not node.discharged


def name_fails(monkeypatch):
    """The archive is refused its name, after the note that it may have it is gone."""

    def rename_new(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic, "rename_new", rename_new)


@pytest.mark.parametrize("daemon", ["this one", "the next one"])
@pytest.mark.parametrize(
    ("options", "late"),
    [({}, False), (STOP, False), (STOP, True)],
    ids=["goes on", "stops", "stops, at its end"],
)
def test_a_container_that_nobody_could_thaw_is_thawed_later(
    node, monkeypatch, options, late, daemon
):
    """Its notes and its record stay as long as it is frozen."""

    async def nothing(_):
        await asyncio.sleep(0)

    def refuse(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("crishim.network.neighbours.loosen", nothing)
    monkeypatch.setattr("crishim.network.hold.remove", nothing)
    node.criu = (lambda _: name_fails(monkeypatch)) if late else criu_fails
    node.guardian_fails = True
    with monkeypatch.context() as broken:
        broken.setattr(cgroup, "thaw", refuse)
        scene, error = dump(node, **options)
    assert isinstance(error, NoSpace if late else ToolFailed)
    assert node.alive and node.frozen and not node.held
    assert scene.held.records.is_undecided(ID) == bool(options)
    assert not list(node.target.parent.iterdir())
    if daemon == "the next one":
        scene = Scene(node)

    async def recover(_):
        if daemon == "the next one":
            scene.held.records.load()
        abandoned = Abandoned(paths=node.paths, cri=scene.cri, held=scene.held)
        for work in abandoned.directories():
            await abandoned.put_in_order(work, wait_s=0)

    play(node, recover)
    node.discharged = True
    assert scene.verdict() == "goes on"


def half_archive(node):
    (partial,) = node.target.parent.glob(".*.partial")
    return partial


def test_somebody_removes_the_half_archive(node):
    """It is no proof that the archive has appeared: the source must not end."""
    node.criu = lambda _: half_archive(node).unlink()
    scene, error = dump(node, stop=True)
    assert isinstance(error, CrishimError)
    assert scene.verdict() == "goes on"


@pytest.mark.parametrize("restore", [None, {}], ids=["alone", "waited for"])
def test_somebody_moves_the_half_archive(node, restore, tmp_path):
    """Nobody can tell whether the archive is there: the source stays frozen, as the error says."""
    node.criu = lambda _: half_archive(node).rename(tmp_path / "moved")
    scene, error = dump(node, restore=restore, stop=True)
    assert isinstance(error, Precondition)
    assert "stays frozen: nobody can tell whether" in str(error)
    assert node.alive and node.frozen and node.held
    assert scene.held.records.of_sandbox(SANDBOX) is not None
    assert (tmp_path / "moved").exists() and not scene.restored
    assert not node.guarded


def settle_fails(monkeypatch):
    def fsync_dir(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("crishim.archive.writer.fsync_dir", fsync_dir)


@pytest.mark.parametrize("restore", [None, {"fails": True}], ids=["alone", "restore fails"])
def test_an_archive_that_cannot_be_made_durable_ends_nothing(node, monkeypatch, restore):
    settle_fails(monkeypatch)
    scene, error = dump(node, restore=restore, stop=True)
    assert "stays frozen" in str(error) and "could not be made durable" in str(error)
    assert scene.verdict() == "frozen"
    assert scene.held.records.of_sandbox(SANDBOX).containers[0].doubtful


def test_nor_does_the_next_daemon(node, monkeypatch):
    settle_fails(monkeypatch)
    dump(node, stop=True)

    async def recover(scene):
        scene.held.records.load()
        await scene.held.decide(SANDBOX)
        await scene.held.finish(SANDBOX)

    assert play(node, recover).verdict() == "frozen"


def next_daemon(node):
    async def recover(scene):
        scene.held.records.load()
        abandoned = Abandoned(paths=node.paths, cri=scene.cri, held=scene.held)
        for _ in range(2):  # its start, and what it tends to later
            with contextlib.suppress(OSError):
                for work in abandoned.directories():
                    await abandoned.put_in_order(work, wait_s=0)
                await scene.held.decide(SANDBOX)
                await scene.held.finish(SANDBOX)

    return play(node, recover)


@pytest.mark.parametrize("restore", [None, {"fails": True}], ids=["alone", "restore fails"])
def test_nor_does_the_next_daemon_where_this_one_dies_before_it_notes_the_doubt(
    node, monkeypatch, restore, tmp_path
):
    """A second fsync succeeds, whatever the first one has lost."""

    async def die(*_):
        shutil.copytree(node.paths.dumps, tmp_path / "as it was")
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as broken:
        settle_fails(broken)
        broken.setattr(HeldSandboxes, "doubt", die)
        dump(node, restore=restore, stop=True)
    shutil.rmtree(node.paths.dumps)
    shutil.copytree(tmp_path / "as it was", node.paths.dumps)
    scene = next_daemon(node)
    assert scene.verdict() == "frozen"
    assert scene.held.records.of_sandbox(SANDBOX).containers[0].doubtful


def test_a_doubt_that_cannot_be_noted_is_not_lost(node, monkeypatch):
    """The record takes it once the disk does."""

    async def refuse(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as broken:
        settle_fails(broken)
        broken.setattr(HeldSandboxes, "doubt", refuse)
        dump(node, stop=True)
        assert not next_daemon(node).held.records.of_sandbox(SANDBOX).containers[0].doubtful
        assert node.alive and node.frozen
    assert next_daemon(node).verdict() == "frozen"
    assert next_daemon(node).held.records.of_sandbox(SANDBOX).containers[0].doubtful


def test_an_fsync_that_fails_after_nobody_waits_for_it_ends_nothing(node, monkeypatch):
    """It alone knows that something was lost: the next one would succeed."""
    with monkeypatch.context() as broken:
        settle_fails(broken)
        broken.setattr(HeldSandboxes, "doubt", lambda *_: asyncio.sleep(0))
        dump(node, stop=True)
    answer, asked = threading.Event(), []

    def make_durable(container, **_):
        asked.append(container)
        if len(asked) == 1:
            answer.wait()
            raise NotDurable(errno.EIO, os.strerror(errno.EIO), container.archive)

    async def recover(scene):
        scene.held.records.load()
        await scene.held.decide(SANDBOX)
        with pytest.raises(TimeoutError):
            await scene.held.finish(SANDBOX)
        answer.set()
        for _ in range(100):
            await scene.held.decide(SANDBOX)
            with contextlib.suppress(TimeoutError, NotDurable):
                await scene.held.finish(SANDBOX)
        assert scene.held.records.of_sandbox(SANDBOX).containers[0].doubtful

    monkeypatch.setattr("crishim.sandbox.evidence.make_durable", make_durable)
    monkeypatch.setattr("crishim.aio.patience.PATIENCE_S", 0.05)
    play(node, recover)
    assert node.alive and node.frozen and len(asked) == 1


def test_nor_does_the_next_daemon_where_the_doubt_met_a_full_disk(node, monkeypatch):
    """The word has room in the record that is there: what fsync lost a second one does not say."""
    settle_fails(monkeypatch)
    write_file = atomic.write_file

    def full(path, data, **options):
        if b'"doubtful":true' in data:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_file(path, data, **options)

    monkeypatch.setattr(atomic, "write_file", full)
    _, error = dump(node, stop=True)
    assert "stays frozen" in str(error)
    assert next_daemon(node).verdict() == "frozen"


@pytest.mark.parametrize("refused", [None, "archive", "directory"])
def test_the_next_daemon_makes_an_archive_durable_before_its_source_ends(
    node, monkeypatch, refused
):
    """The daemon was killed right after the archive got its name."""
    with monkeypatch.context() as broken:
        settle_fails(broken)
        broken.setattr("crishim.sandbox.held.HeldSandboxes.doubt", lambda *_: asyncio.sleep(0))
        dump(node, stop=True)
    synced, fsync = [], os.fsync
    names = {str(node.target): "archive", str(node.target.parent): "directory"}

    def sync(fd):
        what = names.get(os.readlink(f"/proc/self/fd/{fd}"))
        if what is not None and what == refused:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        synced.append((what, node.alive))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(cgroup, "kill", lambda _: node.end())
    scene = next_daemon(node)
    if refused is None:
        assert scene.verdict() == "ended"
        assert synced[:2] == [("archive", True), ("directory", True)]
        return
    assert scene.verdict() == "frozen"
    refused = None  # a second fsync succeeds, and proves nothing
    assert next_daemon(node).verdict() == "frozen"


@pytest.mark.parametrize("half", [True, False])
def test_what_the_next_daemon_makes_of_an_archive_that_is_nowhere(node, monkeypatch, half):
    """Nobody had tried to give it its name: the container goes on. Or nobody can tell."""

    async def loosen(_):
        await asyncio.sleep(0)

    async def recover(scene):
        source = node.source()
        container = HeldContainer.of(source, archive=node.target, inode=1)
        await scene.held.announce(source.sandbox, [container], None, ())
        work = node.paths.dump(ID)
        work.mkdir(parents=True, exist_ok=True)
        if half:
            (work / "half").touch()
        later = Scene(node).held
        later.records.load()
        await later.decide(SANDBOX)
        assert bool(later.records.of_sandbox(SANDBOX)) == (not half)

    monkeypatch.setattr("crishim.network.neighbours.loosen", loosen)
    (node.freezer / "freezer.state").write_text("FROZEN")
    play(node, recover)
    assert node.frozen == (not half)


def test_it_ends_the_source_if_its_process_lives_on_elsewhere(node, monkeypatch):
    settle_fails(monkeypatch)
    scene, error = dump(node, restore={}, stop=True)
    assert isinstance(error, Precondition) and "frozen" not in str(error)
    assert scene.restored
    assert scene.verdict() == "ended"


def test_a_restore_that_fails_leaves_a_durable_archive(node):
    scene, error = dump(node, restore={"fails": True}, stop=True)
    assert error is None
    assert scene.verdict() == "ended"


def test_what_a_kubelet_manages_stays_frozen(node):
    node.kubelet = True
    scene, error = dump(node, stop=True)
    assert error is None
    assert scene.verdict() == "frozen"


@pytest.mark.parametrize("options", [{}, STOP], ids=["goes on", "stops"])
def test_an_output_that_is_there(node, options):
    node.target.write_bytes(b"the only copy of another container")
    scene, error = dump(node, **options)
    assert isinstance(error, AlreadyExists)
    assert node.target.read_bytes() == b"the only copy of another container"
    assert not node.frozen and scene.held.records.of_sandbox(SANDBOX) is None
    node.target.write_bytes(b"nobody needs it")
    scene, error = dump(node, replace=True, **options)
    assert error is None
    scene.verdict()


def test_a_full_disk_at_the_last_moment(node, monkeypatch):
    node.criu = lambda _: name_fails(monkeypatch)
    scene, error = dump(node, stop=True)
    assert isinstance(error, NoSpace)
    assert scene.verdict() == "goes on"


def test_no_note_no_archive(node, monkeypatch):
    """What a later daemon is to know is on disk before the archive has its name."""

    def touch(_):
        raise NoSpace("no note")

    monkeypatch.setattr(ending.Ending, "_appear", lambda self: touch(self))
    scene, error = dump(node, stop=True)
    assert isinstance(error, NoSpace)
    assert scene.verdict() == "goes on"


def test_another_container_of_the_pod_is_started_meanwhile(node):
    async def act(scene):
        node.drained = lambda: setattr(scene.cri, "neighbours", 1)
        with pytest.raises(Precondition, match="another container of the pod was started"):
            await scene.dump(stop=True)

    assert play(node, act).verdict() == "goes on"


def test_another_container_of_the_pod_that_containerd_is_busy_starting(node):
    """It does not run yet, and would come up in a pod that is cut off."""

    async def act(scene):
        with (
            scene.locks.starting("side"),
            pytest.raises(Precondition, match="another container of the pod was started"),
        ):
            await scene.dump(stop=True)

    assert play(node, act).verdict() == "goes on"


def test_an_exec_session_that_begins_while_queues_are_run_empty(node):
    """Its parent lies outside: CRIU could not dump it."""
    with subprocess.Popen(["sleep", "1000"]) as session:
        procs = node.freezer / "cgroup.procs"
        node.drained = lambda: procs.write_text(f"{procs.read_text()}{session.pid}\n")
        scene, error = dump(node)
        session.kill()
    assert "was started in the container by an exec session" in str(error)
    assert scene.verdict() == "goes on"


def test_a_guardian_that_has_died_is_missed_before_the_pause(node):
    node.guardian_dies = True
    scene, error = dump(node, stop=True)
    assert isinstance(error, ChildProcessError)
    assert scene.verdict() == "goes on"


def test_long_steps_tell_how_far_they_have_come(node, monkeypatch):
    monkeypatch.setattr("crishim.flow.phases._ADVANCE_S", 0)
    told = []

    async def act(scene):
        await scene.dump(listener=lambda *event: told.append(event))

    play(node, act)
    assert {name for name, _, done, _ in told if done} == {"layer", "memory"}
    assert [name for name, _, done, _ in told if not done].count("pack") == 1


def test_the_time_in_which_it_stays_frozen_is_told(node):
    results = []

    async def act(scene):
        results.append(await scene.dump(stop=True))

    play(node, act)
    node.start()

    async def again(scene):
        results.append(await scene.dump())

    play(node, again)
    stopped, running = results
    assert stopped.frozen_us > stopped.manifest.statistics.freeze_us > 0
    assert running.frozen_us == 0
    assert running.manifest.statistics.freeze_us > 0


def test_what_goes_well_leaves_no_warning(node, caplog):
    caplog.set_level(logging.WARNING)
    scene, error = dump(node, restore={}, stop=True)
    assert error is None and scene.restored
    assert caplog.records == []


def test_a_dump_that_waited_refuses_what_another_has_stopped(node, monkeypatch):
    """Both were asked for before the container stopped; the second one would thaw it."""

    class Resolver:
        async def source(self, _):
            return node.source()

    async def act(scene):
        class Records:
            async def mounts(self, **_):
                await scene.dump(stop=True)
                return []

        monkeypatch.setattr("crishim.dump.dumper.overlay_of_snapshot", lambda _: None)
        dumper = Dumper(
            resolver=Resolver(), records=Records(), store=None, turns=Turns(1),
            targets=Targets(), pins=None, context=scene.context(),
        )  # fmt: skip
        request = DumpRequest(container=ID, output=node.target.with_name("b.tar"), stop=True)
        with pytest.raises(Precondition, match="was stopped by a checkpoint"):
            await dumper.dump(request, Phases(timeout_s=60))

    node.kubelet = True
    assert play(node, act).verdict() == "frozen"


def test_the_record_of_a_stopped_container_is_not_replaced(node):
    async def act(scene):
        await scene.dump(stop=True)
        before = [path.read_bytes() for path in node.paths.held.iterdir()]
        with pytest.raises((Precondition, AlreadyExists)):
            await scene.dump(stop=True, replace=False)
        node.target.rename(node.target.with_name("kept.tar"))
        with pytest.raises(Precondition):
            await scene.dump(stop=True)
        assert [path.read_bytes() for path in node.paths.held.iterdir()] == before
        assert scene.held.records.of_sandbox(SANDBOX) is not None and node.frozen

    node.kubelet = True
    play(node, act)
