"""A runtime that is not there, goes away and comes back."""

import asyncio
from pathlib import Path

import grpc
import pytest

from crishim._proto.runtime.v1 import api_pb2
from tests.fakes.cri_server import RUNTIME, FakeRuntime, serving
from tests.unit.server.relaying import relaying

EVENTS = RUNTIME + "GetContainerEvents"


async def works_again(stub) -> None:
    async with asyncio.timeout(5):
        while True:
            try:
                await stub.Version(api_pb2.VersionRequest())
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.01)
            else:
                return


@pytest.mark.parametrize("method", [RUNTIME + "Status", EVENTS, RUNTIME + "Invented"])
async def test_absent_runtime_is_unavailable_and_named(tmp_path: Path, method: str) -> None:
    async with relaying(tmp_path, up=False) as relay:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await relay.unary(method)(b"")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert f"containerd does not answer at {relay.runtime_socket}" in caught.value.details()


async def test_calls_work_once_the_runtime_comes(tmp_path: Path) -> None:
    async with relaying(tmp_path, up=False) as relay:
        with pytest.raises(grpc.aio.AioRpcError):
            await relay.cri.Version(api_pb2.VersionRequest())
        async with serving(FakeRuntime(), relay.runtime_socket):
            await works_again(relay.cri)


async def test_restart_under_load(tmp_path: Path) -> None:
    outcomes: list[grpc.StatusCode] = []

    async def load(stub) -> None:
        while True:
            try:
                await stub.Version(api_pb2.VersionRequest())
                outcomes.append(grpc.StatusCode.OK)
            except grpc.aio.AioRpcError as error:
                outcomes.append(error.code())
            await asyncio.sleep(0)

    async with relaying(tmp_path, up=False) as relay:
        async with serving(relay.runtime, relay.runtime_socket):
            await works_again(relay.cri)
            loads = [asyncio.create_task(load(relay.cri)) for _ in range(8)]
            while len(outcomes) < 50:
                await asyncio.sleep(0.01)
        while grpc.StatusCode.UNAVAILABLE not in outcomes:
            await asyncio.sleep(0.01)
        async with serving(FakeRuntime(), relay.runtime_socket):
            await works_again(relay.cri)
            before = len(outcomes)
            while len(outcomes) < before + 50:
                await asyncio.sleep(0.01)
            for task in loads:
                task.cancel()
            await asyncio.gather(*loads, return_exceptions=True)
    # CANCELLED is what a stopping grpc.aio server tells calls that it has begun.
    assert set(outcomes) - {grpc.StatusCode.CANCELLED} == {
        grpc.StatusCode.OK,
        grpc.StatusCode.UNAVAILABLE,
    }
    assert set(outcomes[before + 8 :]) == {grpc.StatusCode.OK}


async def test_event_stream_ends_with_the_runtime_and_can_be_reopened(tmp_path: Path) -> None:
    async def events(requests, context):
        await context.write(b"event")
        await asyncio.Event().wait()

    async with relaying(tmp_path, up=False) as relay:
        relay.runtime.answers[EVENTS] = events
        for _ in range(2):
            async with serving(relay.runtime, relay.runtime_socket):
                await works_again(relay.cri)
                stream = relay.stream(EVENTS)(b"")
                assert await stream.read() == b"event"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stream.read()
            assert caught.value.code() in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.CANCELLED,
            )
