"""What the calls under way notice when the daemon stops."""

import asyncio
import contextlib

import grpc
import pytest

from crishim.errors import Unavailable
from crishim.server.calls import Calls
from crishim.server.drain import drain
from tests.fakes.cri_server import RUNTIME
from tests.unit.server.relaying import Relaying

STATUS = RUNTIME + "Status"
EVENTS = RUNTIME + "GetContainerEvents"


class Running:
    """An answer that begins, and ends when the test says so."""

    def __init__(self) -> None:
        self.begun, self.end = asyncio.Event(), asyncio.Event()

    async def answer(self, requests, context) -> None:
        await context.write(b"answer")
        self.begun.set()
        await self.end.wait()


def draining(calls: Calls, *, grace_s: float = 60.0, hurry: asyncio.Event | None = None):
    said: list[str] = []
    job = drain(calls, grace_s=grace_s, hurry=hurry or asyncio.Event(), waiting=said.append)
    return asyncio.create_task(job), said


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_new_calls_are_refused(relay: Relaying) -> None:
    relay.calls.stop()
    for method in (STATUS, EVENTS, RUNTIME + "Invented"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await relay.unary(method)(b"")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert caught.value.details() == "crishim is stopping"
    assert relay.runtime.calls == []


async def test_new_calls_of_overrides_are_refused(relay: Relaying) -> None:
    async def override(call):
        return b"answered"

    relay.overrides[STATUS] = override
    relay.calls.stop()
    with pytest.raises(grpc.aio.AioRpcError, match="crishim is stopping"):
        await relay.unary(STATUS)(b"")


@pytest.mark.parametrize("method", [STATUS, RUNTIME + "Invented"])
async def test_running_call_is_waited_for(relay: Relaying, method: str) -> None:
    running = Running()
    relay.runtime.answers[method] = running.answer
    call = relay.unary(method)(b"")
    await running.begun.wait()
    stop, _ = draining(relay.calls)
    await settle()
    assert not stop.done()
    running.end.set()
    assert await call == b"answer"
    async with asyncio.timeout(5):
        await stop


@pytest.mark.parametrize("overridden", [False, True])
async def test_event_stream_is_ended_at_once(relay: Relaying, overridden: bool) -> None:
    async def override(call):
        async for event in call.forward(call.raw):
            yield event

    if overridden:
        relay.stream_overrides[EVENTS] = override
    running = Running()
    relay.runtime.answers[EVENTS] = running.answer
    stream = relay.stream(EVENTS)(b"")
    assert await stream.read() == b"answer"
    stop, _ = draining(relay.calls)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream.read()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert caught.value.details() == "crishim is stopping"
    async with asyncio.timeout(5):
        await stop


async def test_grace_is_limited() -> None:
    calls = Calls()
    with calls.running():
        stop, _ = draining(calls, grace_s=0.01)
        async with asyncio.timeout(5):
            await stop


async def test_hurry_shortens_the_grace() -> None:
    calls, hurry = Calls(), asyncio.Event()
    with calls.running():
        stop, _ = draining(calls, hurry=hurry)
        await settle()
        assert not stop.done()
        hurry.set()
        async with asyncio.timeout(5):
            await stop


async def test_dump_is_waited_for_beyond_grace_and_hurry() -> None:
    calls, hurry = Calls(), asyncio.Event()
    hurry.set()
    with contextlib.ExitStack() as dump:
        dump.enter_context(calls.must_finish("the dump of abc"))
        stop, said = draining(calls, grace_s=0.01, hurry=hurry)
        while not said:
            await asyncio.sleep(0.01)
        assert said == ["waiting for the dump of abc"]
        assert not stop.done()
    async with asyncio.timeout(5):
        await stop


async def test_what_finishes_in_time_is_not_reported() -> None:
    calls = Calls()
    with calls.running(), calls.must_finish("the dump of abc"):
        stop, said = draining(calls)
        await settle()
    await stop
    assert said == []


async def test_no_call_begins_after_the_stop() -> None:
    calls = Calls()
    calls.stop()
    with pytest.raises(Unavailable, match="stopping"), calls.running():
        pass
