"""Relay CRI to containerd, byte for byte.

Every method of every service under `runtime.` passes, known or not, with its metadata, deadline,
cancellation, status and status details; no message is parsed here, so fields and methods that are
newer than our protos pass too. Methods that crishim changes are handed in as overrides. This module
must never know what any method means; a relay on the level of HTTP/2 frames may take its place.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import grpc

from crishim.server.calls import STOPPING
from crishim.server.guard import Context, Guard, Stream, Unary
from crishim.server.relay.forwarder import STREAM_METHODS, UNARY_METHODS
from crishim.server.relay.overrides import Call, StreamCall

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

    from crishim.server.calls import Calls
    from crishim.server.relay.forwarder import Forwarder
    from crishim.server.relay.overrides import Override, StreamOverride

Request = TypeVar("Request")
Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"
StreamHandler: TypeAlias = Callable[[Request, Context], Awaitable[None]]

_PREFIX = "/runtime."


class Relay(grpc.GenericRpcHandler):
    """The handler of everything that no registered service takes.

    Args:
        forwarder: the way to containerd.
        calls: counts the calls, refuses them once the daemon stops.
        overrides: by full method ("/runtime.v1.RuntimeService/CheckpointContainer").
        stream_overrides: the same for server-streaming methods.
    """

    def __init__(
        self,
        forwarder: Forwarder,
        calls: Calls,
        *,
        overrides: Mapping[str, Override],
        stream_overrides: Mapping[str, StreamOverride],
    ) -> None:
        self._forwarder = forwarder
        self._calls = calls
        guard = Guard(calls)
        self._handlers: dict[str, Handler] = {}
        for method in UNARY_METHODS:
            unary = self._unary(method)
            if override := overrides.get(method):
                unary = guard.unary(_short(method), self._called(method, override))
            self._handlers[method] = grpc.unary_unary_rpc_method_handler(unary)
        for method in STREAM_METHODS:
            stream = self._stream(method)
            if stream_override := stream_overrides.get(method):
                called = self._stream_called(method, stream_override)
                stream = guard.stream(_short(method), called)
            self._handlers[method] = grpc.unary_stream_rpc_method_handler(self._endless(stream))

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """Return the handler of a method; None (UNIMPLEMENTED) for what is not CRI."""
        method = handler_call_details.method
        handler = self._handlers.get(method)
        if handler is None and method.startswith(_PREFIX):
            return grpc.stream_stream_rpc_method_handler(self._unknown(method))
        return handler

    def _unary(self, method: str) -> Unary[bytes, bytes]:
        forward, refuse, calls = self._forwarder.forward, self._forwarder.refuse, self._calls

        # Every call of a kubelet comes through here: no context manager, no log line.
        async def relay(request: bytes, context: Context) -> bytes:
            if calls.stopping:
                _refuse_stopping(context)
                return b""
            calls.begin()
            try:
                return await forward(method, request, context)
            except grpc.aio.AioRpcError as error:
                refuse(error, context)
                return b""
            finally:
                calls.end()

        return relay

    def _stream(self, method: str) -> StreamHandler[bytes]:
        async def relay(request: bytes, context: Context) -> None:
            await self._pass_on(self._forwarder.stream(method, request, context), context)

        return relay

    def _unknown(self, method: str) -> StreamHandler[object]:
        async def relay(_: object, context: Context) -> None:
            await self._pass_on(self._forwarder.exchange(method, context), context)

        return relay

    def _called(self, method: str, override: Override) -> Unary[bytes, bytes]:
        forward = self._forwarder.forward

        def call(request: bytes, context: Context) -> Awaitable[bytes]:
            return override(Call(request, lambda raw: forward(method, raw, context)))

        return call

    def _stream_called(self, method: str, override: StreamOverride) -> Stream[bytes, bytes]:
        forward = self._forwarder.stream

        def call(request: bytes, context: Context) -> AsyncIterator[bytes]:
            return override(StreamCall(request, lambda raw: forward(method, raw, context)))

        return call

    async def _pass_on(self, answers: AsyncGenerator[bytes, None], context: Context) -> None:
        if self._calls.stopping:
            _refuse_stopping(context)
            return
        with self._calls.running():
            try:
                async with contextlib.aclosing(answers):
                    async for answer in answers:
                        await context.write(answer)
            except grpc.aio.AioRpcError as error:
                self._forwarder.refuse(error, context)

    def _endless(self, handler: StreamHandler[bytes]) -> StreamHandler[bytes]:
        """Return `handler` so that a stop of the daemon ends it, and the caller is told why."""

        async def ending(request: bytes, context: Context) -> None:
            task = asyncio.current_task()
            assert task is not None
            try:
                with self._calls.ended_by_stop(task.cancel):
                    await handler(request, context)
            except asyncio.CancelledError:
                if not self._calls.stopping:
                    raise
                task.uncancel()
                _refuse_stopping(context)

        return ending


def _refuse_stopping(context: Context) -> None:
    context.set_code(grpc.StatusCode.UNAVAILABLE)
    context.set_details(STOPPING)


def _short(method: str) -> str:
    return method.rpartition("/")[2]
