"""So many flows at a time; the others wait in the order they came."""

import asyncio

import pytest

from crishim.errors import DeadlineExceeded
from crishim.flow.phases import Phases
from crishim.flow.turns import Turns


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_first_do_not_wait_and_the_others_are_told():
    turns, running, ends = Turns(2), [], [asyncio.Event() for _ in range(4)]

    async def flow(number: int) -> tuple[bool, list[str]]:
        phases = Phases()
        async with turns.take(phases) as waited:
            running.append(number)
            await ends[number].wait()
        return waited, [phase.name for phase in phases.done]

    flows = [asyncio.ensure_future(flow(number)) for number in range(4)]
    await settle()
    assert running == [0, 1]
    ends[1].set()
    await settle()
    assert running == [0, 1, 2]
    for end in ends:
        end.set()
    answers = await asyncio.gather(*flows)
    assert running == [0, 1, 2, 3]
    assert answers == [(False, []), (False, []), (True, ["waiting"]), (True, ["waiting"])]


async def test_a_turn_ends_with_its_flow_however_that_ends():
    turns = Turns(1)
    with pytest.raises(ValueError, match="broken"):
        async with turns.take(Phases()):
            raise ValueError("broken")
    async with turns.take(Phases()) as waited:
        assert not waited


async def test_who_goes_away_while_waiting_takes_no_turn():
    turns = Turns(1)

    async def flow() -> None:
        async with turns.take(Phases()):
            pytest.fail("it had gone away")

    async with turns.take(Phases()):
        waiting = asyncio.ensure_future(flow())
        await settle()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    async with turns.take(Phases()) as waited:
        assert not waited


async def test_the_deadline_counts_while_waiting():
    turns = Turns(1)
    async with turns.take(Phases()):
        with pytest.raises(DeadlineExceeded, match="in phase 'waiting'"):
            async with turns.take(Phases(timeout_s=0.005)):
                pytest.fail("there was no turn")
