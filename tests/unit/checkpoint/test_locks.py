"""One operation on a container at a time; execs and the pause of a dump give way to each other."""

import asyncio

import pytest

from crishim.checkpoint.locks import Locks
from crishim.errors import Busy
from crishim.ids import ContainerId

ONE, OTHER = ContainerId("one"), ContainerId("other")


def test_a_second_operation_is_told_what_is_under_way():
    locks = Locks()
    with locks.hold(ONE, "checkpoint"), locks.hold(OTHER, "restore"):
        assert locks.busy(ONE) and locks.busy(OTHER)
        message = "a checkpoint of container one is under way"
        with pytest.raises(Busy, match=message), locks.hold(ONE, "restore"):
            pytest.fail("two own it")
        assert locks.busy(ONE)
    assert not locks.busy(ONE)


def test_a_failed_operation_lets_go():
    locks = Locks()
    with pytest.raises(ValueError, match="broken"), locks.hold(ONE, "checkpoint"):
        raise ValueError("broken")
    assert not locks.busy(ONE)


async def test_an_exec_waits_for_the_pause_and_no_longer():
    locks = Locks()
    with locks.hold(ONE, "checkpoint"):
        await locks.exec_may_begin(ONE)
        with locks.quiet(ONE):
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
