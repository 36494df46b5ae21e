"""Methods that crishim changes: what they get, what they can pass on, how their errors look."""

import asyncio
import logging
import os

import grpc
import pytest

from crishim import errors
from tests.fakes.cri_server import RUNTIME, echo, fail_with
from tests.unit.server.relaying import Relaying

STATUS = RUNTIME + "Status"
EVENTS = RUNTIME + "GetContainerEvents"


async def failure_of(call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_override_answers_itself(relay: Relaying) -> None:
    async def override(call):
        return call.raw + b" answered"

    relay.overrides[STATUS] = override
    assert await relay.unary(STATUS)(b"raw") == b"raw answered"
    assert relay.runtime.calls == []


async def test_override_passes_changed_bytes_on(relay: Relaying) -> None:
    async def override(call):
        return await call.forward(call.raw + b" changed") + b" twice"

    async def answer(requests, context):
        context.set_trailing_metadata((("late", "1"),))
        await echo(requests, context)

    relay.overrides[STATUS] = override
    relay.runtime.answers[STATUS] = answer
    call = relay.unary(STATUS)(b"request", metadata=(("key", "value"),))
    assert await call == b"request changed twice"
    assert tuple(await call.trailing_metadata()) == (("late", "1"),)
    assert relay.runtime.calls[0].header("key") == ["value"]


async def test_stream_override_changes_each_message(relay: Relaying) -> None:
    async def override(call):
        async for event in call.forward(call.raw):
            yield event.upper()

    async def events(requests, context):
        for event in (b"created", b"started"):
            await context.write(event)

    relay.stream_overrides[EVENTS] = override
    relay.runtime.answers[EVENTS] = events
    assert [event async for event in relay.stream(EVENTS)(b"")] == [b"CREATED", b"STARTED"]


async def test_runtimes_error_passes_an_override_unchanged(relay: Relaying) -> None:
    async def override(call):
        return await call.forward(call.raw)

    details_bin = ("grpc-status-details-bin", b"\x08\x05")
    relay.overrides[STATUS] = override
    relay.runtime.answers[STATUS] = fail_with(grpc.StatusCode.NOT_FOUND, "gone", details_bin)
    error = await failure_of(relay.unary(STATUS)(b""))
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "gone")
    assert tuple(error.trailing_metadata()) == (details_bin,)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidRequest("bad"), grpc.StatusCode.INVALID_ARGUMENT),
        (errors.NotFound("gone"), grpc.StatusCode.NOT_FOUND),
        (errors.AlreadyExists("there"), grpc.StatusCode.ALREADY_EXISTS),
        (errors.Precondition("not running"), grpc.StatusCode.FAILED_PRECONDITION),
        (errors.Busy("another"), grpc.StatusCode.ABORTED),
        (errors.Unsupported("no"), grpc.StatusCode.UNIMPLEMENTED),
        (errors.NoSpace("full"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.Unavailable("down"), grpc.StatusCode.UNAVAILABLE),
        (errors.DeadlineExceeded("freeze took too long"), grpc.StatusCode.DEADLINE_EXCEEDED),
        (errors.Corrupt("digest"), grpc.StatusCode.DATA_LOSS),
        (errors.ToolFailed("runc", 1, details="criu failed"), grpc.StatusCode.INTERNAL),
        (errors.CrishimError("who knows"), grpc.StatusCode.INTERNAL),
        (ZeroDivisionError("division by zero"), grpc.StatusCode.INTERNAL),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value.name,
)
@pytest.mark.parametrize("streaming", [False, True], ids=["unary", "stream"])
async def test_each_error_has_its_code(
    relay: Relaying, error: Exception, code: grpc.StatusCode, streaming: bool
) -> None:
    async def override(call):
        raise error

    async def stream_override(call):
        yield b"first"
        raise error

    relay.overrides[STATUS] = override
    relay.stream_overrides[EVENTS] = stream_override
    if streaming:
        call = relay.stream(EVENTS)(b"")
        assert await call.read() == b"first"
        caught = await failure_of(call.read())
    else:
        caught = await failure_of(relay.unary(STATUS)(b""))
    assert caught.code() is code
    assert str(error) in caught.details()


async def test_error_of_a_tool_names_log_and_request(
    relay: Relaying, caplog: pytest.LogCaptureFixture
) -> None:
    async def override(call):
        raise errors.ToolFailed("runc", 1, details="Error (criu/x.c:1)", log_path="/logs/dump.log")

    relay.overrides[STATUS] = override
    details = (await failure_of(relay.unary(STATUS)(b""))).details()
    assert "runc failed with exit status 1: Error (criu/x.c:1)" in details
    assert "/logs/dump.log" in details
    assert details.partition("[request ")[2] in caplog.text


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (errors.Unsupported("it uses io_uring"), logging.WARNING),
        (errors.Precondition("it was started already"), logging.WARNING),
        (errors.NotFound("no such checkpoint"), logging.WARNING),
        (errors.Corrupt("it is damaged"), logging.ERROR),
        (errors.NoSpace("the disk is full"), logging.ERROR),
    ],
)
async def test_a_refusal_is_no_error_of_the_daemon(
    relay: Relaying, caplog: pytest.LogCaptureFixture, error: errors.CrishimError, level: int
) -> None:
    async def override(call):
        raise error

    relay.overrides[STATUS] = override
    await failure_of(relay.unary(STATUS)(b""))
    [record] = [record for record in caplog.records if str(error) in record.getMessage()]
    assert record.levelno == level


async def test_names_that_are_no_text_reach_the_caller(relay: Relaying) -> None:
    """A program chooses the names of the files by which it is refused."""

    async def override(call):
        raise errors.Unsupported(f"it holds {os.fsdecode(b'/tmp/' + bytes((255, 27)))}, which")

    relay.overrides[STATUS] = override
    error = await failure_of(relay.unary(STATUS)(b""))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert error.details() == "it holds /tmp/\\udcff\\x1b, which"


async def test_fault_of_ours_is_logged_with_its_place(
    relay: Relaying, caplog: pytest.LogCaptureFixture
) -> None:
    async def override(call):
        return {}["missing"]

    relay.overrides[STATUS] = override
    error = await failure_of(relay.unary(STATUS)(b""))
    assert "KeyError: 'missing'" in error.details()
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info and "test_overrides.py" in str(record.exc_text)


async def test_cancelled_call_cancels_the_override(relay: Relaying) -> None:
    begun, cleaned = asyncio.Event(), asyncio.Event()

    async def override(call):
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    relay.overrides[STATUS] = override
    call = relay.unary(STATUS)(b"")
    async with asyncio.timeout(5):
        await begun.wait()
        call.cancel()
        await cleaned.wait()


async def test_a_caller_that_leaves_closes_a_stream_override(relay: Relaying) -> None:
    cleaned = asyncio.Event()

    async def override(call):
        try:
            while True:
                yield bytes(1 << 16)
        finally:
            cleaned.set()

    relay.stream_overrides[EVENTS] = override
    call = relay.stream(EVENTS)(b"")
    await call.read()
    call.cancel()
    async with asyncio.timeout(5):
        await cleaned.wait()
