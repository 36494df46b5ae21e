"""A flow's undo runs to its end, however often and whenever its caller goes away."""

import asyncio
import contextlib
import contextvars
import os
import threading

import pytest

from crishim.aio.lanes import Lane
from crishim.aio.shield import in_thread, made_in_thread, unbroken


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


@pytest.mark.parametrize("cancellations", [1, 3])
async def test_a_thread_is_waited_for_however_often_its_caller_is_cancelled(cancellations):
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        may_end.wait(20)
        ended.set()

    caller = asyncio.ensure_future(in_thread(work))
    await asyncio.to_thread(begun.wait, 20)
    for _ in range(cancellations):
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


async def test_what_a_thread_has_made_is_unmade_with_its_flow():
    unmade = []
    async with contextlib.AsyncExitStack() as undo:
        made = await made_in_thread(undo, lambda: "half an archive", unmade.append)
        assert made == "half an archive"
        assert unmade == []
    assert unmade == ["half an archive"]


async def test_what_a_thread_has_made_is_not_lost_with_a_cancelled_caller():
    begun, may_end, unmade = threading.Event(), threading.Event(), []

    def make() -> str:
        begun.set()
        may_end.wait(20)
        return "half an archive"

    async def flow() -> None:
        async with contextlib.AsyncExitStack() as undo:
            await made_in_thread(undo, make, unmade.append)

    caller = asyncio.ensure_future(flow())
    await asyncio.to_thread(begun.wait, 20)
    caller.cancel()
    await turns()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert unmade == ["half an archive"]


async def test_what_could_not_be_made_is_not_unmade():
    unmade = []
    with pytest.raises(ZeroDivisionError):
        async with contextlib.AsyncExitStack() as undo:
            await made_in_thread(undo, lambda: 1 // 0, unmade.append)
    assert unmade == []


async def test_neither_a_thaw_nor_a_record_waits_for_bulk_work():
    """As many archives being verified as there are threads for it, and three times that."""
    end, running = threading.Event(), threading.Semaphore(0)

    def verify() -> None:
        running.release()
        end.wait(20)

    bulk = [asyncio.ensure_future(in_thread(verify, lane=Lane.BULK)) for _ in range(24)]
    try:
        assert await asyncio.to_thread(running.acquire, timeout=20)
        async with asyncio.timeout(10):
            assert await in_thread(lambda: "thawed", lane=Lane.PAUSE) == "thawed"
            assert await in_thread(lambda: "read") == "read"
        assert not any(work.done() for work in bulk)
    finally:
        end.set()
        await asyncio.gather(*bulk)


async def test_bulk_work_gives_way_to_the_rest_of_the_node():
    def nice() -> int:
        return os.getpriority(os.PRIO_PROCESS, 0)

    own = nice()
    assert await in_thread(nice, lane=Lane.BULK) >= max(own, 10)
    assert await in_thread(nice, lane=Lane.PAUSE) == own
    assert await in_thread(nice) == own


async def test_a_thread_knows_the_call_that_it_works_for():
    call = contextvars.ContextVar("call", default="")
    call.set("checkpoint of abc")
    assert await in_thread(call.get) == "checkpoint of abc"
