"""What a kubelet notices of the relay: nothing."""

import asyncio

import grpc
import pytest

from crishim._proto.runtime.v1 import api_pb2
from crishim.server.relay.forwarder import STREAM_METHODS, UNARY_METHODS
from tests.fakes.cri_server import RUNTIME, answer_by, echo, fail_with, version
from tests.unit.server.relaying import Relaying

# No CRI message of today: tag 2047 is nobody's.
NEWER = b"\xfa\x7f\x05hello"
EVENTS = RUNTIME + "GetContainerEvents"


@pytest.mark.parametrize("method", sorted(UNARY_METHODS))
async def test_every_unary_method_passes_byte_for_byte(relay: Relaying, method: str) -> None:
    relay.runtime.answers[method] = echo
    assert await relay.unary(method)(NEWER) == NEWER
    assert [(call.method, call.requests) for call in relay.runtime.calls] == [(method, [NEWER])]


@pytest.mark.parametrize("method", sorted(STREAM_METHODS))
async def test_every_stream_passes_byte_for_byte(relay: Relaying, method: str) -> None:
    async def answer(requests, context):
        async for request in requests:
            for number in range(1000):
                await context.write(request + bytes([number % 256]))

    relay.runtime.answers[method] = answer
    answers = [answer async for answer in relay.stream(method)(NEWER)]
    assert answers == [NEWER + bytes([number % 256]) for number in range(1000)]


@pytest.mark.parametrize("method", [RUNTIME + "Invented", "/runtime.v9.Another/Method"])
async def test_unknown_unary_method_passes(relay: Relaying, method: str) -> None:
    relay.runtime.answers[method] = echo
    assert await relay.unary(method)(NEWER) == NEWER


async def test_unknown_method_may_stream_both_ways(relay: Relaying) -> None:
    relay.runtime.answers[RUNTIME + "Talk"] = echo
    call = relay.client.stream_stream(RUNTIME + "Talk")()
    for word in (b"one", b"two", b"three"):
        await call.write(word)
        assert await call.read() == word
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize(
    "method",
    [
        RUNTIME + "NotInThisRuntime",
        RUNTIME + "CheckpointPod",
        "/containerd.services.tasks.v1.Tasks/Get",
        "/crishim.v1.Nothing/Here",
    ],
)
async def test_what_nobody_serves_is_unimplemented(relay: Relaying, method: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await relay.unary(method)(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_containerds_other_services_are_not_reachable(relay: Relaying) -> None:
    method = "/containerd.services.tasks.v1.Tasks/Get"
    relay.runtime.answers[method] = echo
    with pytest.raises(grpc.aio.AioRpcError):
        await relay.unary(method)(b"")
    assert relay.runtime.calls == []


async def test_unknown_method_may_send_nothing(relay: Relaying) -> None:
    async def answer(requests, context):
        count = len([request async for request in requests])
        await context.write(str(count).encode())

    relay.runtime.answers[RUNTIME + "Count"] = answer
    for sent in ([], [b""], [b"", b""], [b"", b"", b"a", b"a"]):
        call = relay.client.stream_unary(RUNTIME + "Count")
        assert await call(iter(sent)) == str(len(sent)).encode()


async def test_metadata_pass_both_ways(relay: Relaying) -> None:
    sent = (
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("several", "a"),
        ("several", "b"),
        ("raw-bin", b"\x00\xff\x00"),
        ("large", "x" * 100_000),
    )
    back = (("early", "1"), ("early-bin", b"\xfe"))
    late = (("late", "2"), ("late-bin", b"\xfd"), ("long", "y" * 100_000))

    async def answer(requests, context):
        await context.send_initial_metadata(back)
        context.set_trailing_metadata(late)
        await context.write(b"")

    relay.runtime.answers[RUNTIME + "Status"] = answer
    call = relay.unary(RUNTIME + "Status")(b"", metadata=sent)
    await call
    [received] = relay.runtime.calls
    assert [pair for pair in received.metadata if pair[0] != "user-agent"] == list(sent)
    assert tuple(await call.initial_metadata()) == back
    assert tuple(await call.trailing_metadata()) == late


@pytest.mark.parametrize("method", [EVENTS, RUNTIME + "Invented"])
async def test_metadata_of_a_stream_pass_before_its_first_message(
    relay: Relaying, method: str
) -> None:
    silent = asyncio.Event()

    async def answer(requests, context):
        await context.send_initial_metadata((("early", "1"),))
        await silent.wait()
        context.set_trailing_metadata((("late", "2"),))

    relay.runtime.answers[method] = answer
    call = relay.stream(method)(b"", metadata=(("key", "value"),))
    assert tuple(await call.initial_metadata()) == (("early", "1"),)
    silent.set()
    assert [answer async for answer in call] == []
    assert tuple(await call.trailing_metadata()) == (("late", "2"),)
    assert relay.runtime.calls[0].header("key") == ["value"]


async def test_hop_headers_are_written_once(relay: Relaying) -> None:
    await relay.unary(RUNTIME + "Version")(b"")
    [received] = relay.runtime.calls
    keys = [key for key, _ in received.metadata]
    assert keys == ["user-agent"]


@pytest.mark.parametrize("method", [RUNTIME + "Status", EVENTS, RUNTIME + "Invented"])
async def test_deadline_passes(relay: Relaying, method: str) -> None:
    async def answer(requests, context):
        await asyncio.Event().wait()

    relay.runtime.answers[method] = answer
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await relay.unary(method)(b"", timeout=0.25)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    [received] = relay.runtime.calls
    assert received.time_remaining_s is not None
    assert 0 < received.time_remaining_s < 0.3  # gRPC rounds what it sends up


@pytest.mark.parametrize("method", [RUNTIME + "Status", EVENTS, RUNTIME + "Invented"])
async def test_no_deadline_is_invented(relay: Relaying, method: str) -> None:
    relay.runtime.answers[method] = echo
    await relay.unary(method)(b"")
    assert relay.runtime.calls[0].time_remaining_s is None


@pytest.mark.parametrize("method", [RUNTIME + "Status", EVENTS, RUNTIME + "Invented"])
async def test_cancellation_reaches_the_runtime(relay: Relaying, method: str) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def answer(requests, context):
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    relay.runtime.answers[method] = answer
    call = relay.stream(method)(b"")
    async with asyncio.timeout(5):
        await begun.wait()
        call.cancel()
        await ended.wait()
        while not relay.runtime.calls[0].cancelled:
            await asyncio.sleep(0)


CODES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


@pytest.mark.parametrize("method", [RUNTIME + "Status", EVENTS, RUNTIME + "Invented"])
@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
async def test_errors_pass_with_their_details(
    relay: Relaying, method: str, code: grpc.StatusCode
) -> None:
    trailing = (("grpc-status-details-bin", b"\x08\x05\x12\x04more"), ("log", "z" * 50_000))
    relay.runtime.answers[method] = fail_with(code, "no such container: größer", *trailing)
    call = relay.unary(method)(b"")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert (caught.value.code(), caught.value.details()) == (code, "no such container: größer")
    assert tuple(caught.value.trailing_metadata()) == trailing


async def test_an_error_ends_a_stream_after_its_messages(relay: Relaying) -> None:
    async def answer(requests, context):
        await context.write(b"first")
        await context.abort(grpc.StatusCode.ABORTED, "lost the rest")

    relay.runtime.answers[EVENTS] = answer
    call = relay.stream(EVENTS)(b"")
    assert await call.read() == b"first"
    with pytest.raises(grpc.aio.AioRpcError, match="lost the rest"):
        await call.read()


async def test_messages_of_20_mb_pass_both_ways(relay: Relaying) -> None:
    big = bytes(20 << 20)
    relay.runtime.answers[RUNTIME + "Status"] = echo
    assert await relay.unary(RUNTIME + "Status")(big) == big


async def test_many_calls_at_once(relay: Relaying) -> None:
    relay.runtime.answers[RUNTIME + "Status"] = echo
    status = relay.unary(RUNTIME + "Status")
    requests = [str(number).encode() for number in range(300)]
    assert await asyncio.gather(*(status(request) for request in requests)) == requests


async def test_a_slow_reader_does_not_hold_up_other_calls(relay: Relaying) -> None:
    async def flood(requests, context):
        while True:
            await context.write(bytes(1 << 16))

    relay.runtime.answers[EVENTS] = flood
    unread = relay.stream(EVENTS)(b"")
    await unread.read()
    assert (await relay.cri.Version(api_pb2.VersionRequest())).runtime_name == "fake"
    unread.cancel()


async def test_typed_answer_is_the_runtimes(relay: Relaying) -> None:
    relay.runtime.answers[RUNTIME + "Version"] = answer_by(version)
    assert await relay.cri.Version(api_pb2.VersionRequest()) == version()
