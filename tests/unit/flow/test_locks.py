"""One order per container and per sandbox; execs and the pause of a dump give way to each other."""

import asyncio
import contextlib

import pytest

from crishim.aio.shield import to_the_end, unbroken
from crishim.errors import Busy, Unavailable
from crishim.flow.locks import Locks
from crishim.ids import ContainerId, SandboxId

ONE, OTHER = ContainerId("one"), ContainerId("other")
POD, ELSEWHERE = SandboxId("pod"), SandboxId("elsewhere")


async def let_run() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_a_second_operation_is_told_what_is_under_way():
    locks = Locks()
    with (
        locks.hold(ONE, "checkpoint", sandbox=POD),
        locks.hold(OTHER, "restore", sandbox=ELSEWHERE),
    ):
        assert locks.busy(ONE) and locks.busy(OTHER)
        message = "a checkpoint of container one is under way"
        with pytest.raises(Busy, match=message), locks.hold(ONE, "restore", sandbox=POD):
            pytest.fail("two own it")
        assert locks.busy(ONE)
    assert not locks.busy(ONE)


def test_a_failed_operation_lets_go():
    locks = Locks()
    with pytest.raises(ValueError, match="broken"), locks.hold(ONE, "checkpoint", sandbox=POD):
        raise ValueError("broken")
    assert not locks.busy(ONE)


def test_two_checkpoints_of_one_pod_go_side_by_side_and_two_restores_do_not():
    locks = Locks()
    with locks.hold(ONE, "checkpoint", sandbox=POD), locks.hold(OTHER, "checkpoint", sandbox=POD):
        pass
    with (
        locks.hold(ONE, "restore", sandbox=POD, alone=True),
        pytest.raises(Busy, match="restore of container one of the same pod is under way"),
        locks.hold(OTHER, "restore", sandbox=POD, alone=True),
    ):
        pytest.fail("two bring the pod an address")


def test_nothing_begins_in_a_pod_that_is_about_to_be_cut_off():
    locks = Locks()
    with locks.hold(ONE, "checkpoint", sandbox=POD) as dump:
        with locks.cutting_off(dump):
            assert locks.any_cut_off and locks.cut_off(POD) and not locks.cut_off(ELSEWHERE)
            with pytest.raises(Busy), locks.hold(OTHER, "restore", sandbox=POD):
                pytest.fail("it would be cut off too")
        assert not locks.any_cut_off
        with (
            locks.hold(OTHER, "restore", sandbox=POD, alone=True),
            pytest.raises(Busy),
            locks.cutting_off(dump),
        ):
            pytest.fail("the restore would be cut off")


@pytest.mark.parametrize("whole", [False, True], ids=["container", "sandbox"])
async def test_who_stops_asks_an_operation_to_end_and_waits_for_its_undo(whole: bool):
    locks, undone = Locks(), asyncio.Event()
    steps: list[str] = []

    async def flow(operation) -> None:
        with operation.gives_way():
            try:
                await asyncio.Event().wait()
            finally:
                await to_the_end(undone.wait())
                steps.append("undone")

    async def dump() -> None:
        with locks.hold(ONE, "checkpoint", sandbox=POD) as operation:
            await unbroken(flow(operation))

    async def stop() -> None:
        async with locks.whole(POD) if whole else locks.leaving(ONE):
            steps.append("stopped")
            with pytest.raises(Busy, match="being stopped"), locks.hold(ONE, "x", sandbox=POD):
                pytest.fail("a container on its way out")

    dumping = asyncio.ensure_future(dump())
    await let_run()
    stopping = asyncio.ensure_future(stop())
    await let_run()
    assert steps == []
    undone.set()
    await stopping
    assert steps == ["undone", "stopped"]
    with pytest.raises(Busy, match="broken off"):
        await dumping
    with locks.hold(ONE, "checkpoint", sandbox=POD):
        pass


async def test_an_operation_past_its_point_of_no_return_is_waited_for():
    locks, go = Locks(), asyncio.Event()

    async def dump() -> str:
        with locks.hold(ONE, "checkpoint", sandbox=POD) as operation:
            with operation.gives_way():
                await asyncio.sleep(0)
            await go.wait()
            return "done"

    dumping = asyncio.ensure_future(dump())
    await let_run()
    async with asyncio.timeout(5):
        stopping = asyncio.ensure_future(locks.whole(POD).__aenter__())
        await let_run()
        assert not stopping.done()
        go.set()
        assert await dumping == "done"
        await stopping


async def test_a_cancelled_caller_stays_cancelled_though_somebody_asked_too():
    locks = Locks()

    async def dump() -> None:
        with locks.hold(ONE, "checkpoint", sandbox=POD) as operation, operation.gives_way():
            await asyncio.Event().wait()

    dumping = asyncio.ensure_future(dump())
    await let_run()
    stopping = asyncio.ensure_future(locks.leaving(ONE).__aenter__())
    await asyncio.sleep(0)
    dumping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dumping
    await stopping


async def test_who_was_asked_before_it_could_give_way_learns_it_then():
    locks = Locks()
    with locks.hold(ONE, "restore", sandbox=POD) as operation:
        stopping = asyncio.ensure_future(locks.leaving(ONE).__aenter__())
        await let_run()
        assert operation.asked
        with pytest.raises(Busy), operation.gives_way():
            pytest.fail("it goes on")
    await stopping


async def test_stops_of_one_sandbox_follow_each_other_and_a_lost_caller_frees_it():
    locks, order = Locks(), []

    async def stop(name: str, until: asyncio.Event) -> None:
        async with locks.whole(POD):
            order.append(name)
            await until.wait()

    first, second = asyncio.Event(), asyncio.Event()
    tasks = [asyncio.ensure_future(stop("a", first)), asyncio.ensure_future(stop("b", second))]
    gone = asyncio.ensure_future(stop("gone", second))
    await let_run()
    gone.cancel()
    async with locks.whole(ELSEWHERE):
        assert order == ["a"]
    first.set()
    second.set()
    await asyncio.gather(*tasks)
    assert order == ["a", "b"]
    with contextlib.suppress(asyncio.CancelledError):
        await gone
    with locks.hold(ONE, "restore", sandbox=POD):
        pass


async def test_what_a_crash_left_is_waited_for_and_nothing_else():
    locks = Locks()
    locks.recovered.expect([ONE, POD])
    await locks.recovered.wait(OTHER, ELSEWHERE, "")
    waiting = asyncio.ensure_future(locks.recovered.wait("po"))
    await let_run()
    assert not waiting.done()
    with pytest.raises(Unavailable, match="put in order"):
        await locks.recovered.wait(POD, timeout_s=0.001)
    locks.recovered.done(POD)
    await waiting
    locks.recovered.done(ONE)
    await locks.recovered.wait(ONE, POD)


async def test_an_exec_waits_for_the_pause_and_no_longer():
    locks = Locks()
    with locks.hold(ONE, "checkpoint", sandbox=POD):
        await locks.exec_may_begin(ONE)
        with locks.no_execs(ONE):
            waiting = asyncio.ensure_future(locks.exec_may_begin("on"))
            await locks.exec_may_begin(OTHER)
            await asyncio.sleep(0)
            assert not waiting.done()
        await waiting


async def test_the_pause_waits_for_execs_that_run():
    locks = Locks()
    with locks.exec("on"):
        assert (locks.execs(ONE), locks.execs(OTHER)) == (1, 0)
        waiting = asyncio.ensure_future(locks.execs_ended(ONE, timeout_s=60))
        await asyncio.sleep(0)
        assert not waiting.done()
    await waiting
    assert locks.execs(ONE) == 0


async def test_the_pause_waits_for_no_exec_for_ever():
    locks = Locks()
    with locks.exec(ONE):
        await locks.execs_ended(ONE, timeout_s=0.001)
        assert locks.execs(ONE) == 1
