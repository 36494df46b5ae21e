"""A flow's undo runs to its end, however often and whenever its caller goes away."""

import asyncio
import threading

import pytest

from crishim.checkpoint.flow import in_thread, unbroken


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Flow:
    """Waits in its middle, then in its undo, until it is told to go on."""

    def __init__(self) -> None:
        self.undo_begun = asyncio.Event()
        self.undo_may_end = asyncio.Event()
        self.undone = False

    async def run(self) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            self.undo_begun.set()
            await self.undo_may_end.wait()
            self.undone = True
        return "never"


async def test_results_and_errors_pass():
    async def good() -> int:
        return 3

    async def bad() -> int:
        raise ValueError("broken")

    assert await unbroken(good()) == 3
    with pytest.raises(ValueError, match="broken"):
        await unbroken(bad())


@pytest.mark.parametrize("cancellations", [1, 2, 5])
async def test_cancellations_do_not_break_into_the_undo(cancellations):
    flow = Flow()
    caller = asyncio.ensure_future(unbroken(flow.run()))
    await turns()
    for _ in range(cancellations):
        caller.cancel()
        await turns()
    assert flow.undo_begun.is_set()
    assert not caller.done()
    flow.undo_may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert flow.undone


async def test_a_flow_that_fails_in_its_undo_still_ends_as_cancelled():
    async def flow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("undo failed")

    caller = asyncio.ensure_future(unbroken(flow()))
    await turns()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller


async def test_a_thread_is_waited_for():
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        may_end.wait(20)
        ended.set()

    caller = asyncio.ensure_future(in_thread(work))
    await asyncio.to_thread(begun.wait, 20)
    caller.cancel()
    await turns()
    assert not caller.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended.is_set()


async def test_a_thread_is_told_to_end_soon():
    begun, end, told = threading.Event(), threading.Event(), []

    def work() -> None:
        begun.set()
        end.wait(20)

    def cancel() -> None:
        told.append("cancel")
        end.set()

    caller = asyncio.ensure_future(in_thread(work, cancel=cancel))
    await asyncio.to_thread(begun.wait, 20)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert told == ["cancel"]


async def test_a_thread_gives_result_and_error():
    assert await in_thread(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await in_thread(divmod, 7, 0)
