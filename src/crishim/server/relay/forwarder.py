"""Passes calls on to containerd: metadata, deadline, cancellation, status, and bytes as they are.

This module must never know what any method means, nor which of them crishim changes. What cannot
pass, because gRPC owns it: the caller's user-agent, and its compression.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc

from crishim._proto.runtime.v1 import api_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from crishim.server.guard import Context

# Headers of the hop, not of the call: gRPC writes its own.
_HOP_HEADERS = frozenset(
    {"user-agent", "te", "content-type", "grpc-accept-encoding", "accept-encoding"}
)
_HALF_CLOSE_S = 0.05
"""How long a caller's end of requests may lag behind its only one; usually they come together."""


def _methods(*, streaming: bool) -> frozenset[str]:
    return frozenset(
        f"/{service.full_name}/{method.name}"
        for service in api_pb2.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if method.server_streaming is streaming
    )


UNARY_METHODS = _methods(streaming=False)
STREAM_METHODS = _methods(streaming=True)


class Forwarder:
    """Passes calls on to containerd.

    Args:
        channel: to containerd; not closed here.
        socket: where containerd listens, for error texts.
    """

    def __init__(self, channel: grpc.aio.Channel, socket: Path) -> None:
        self._channel = channel
        self._socket = socket
        self._unary: dict[str, grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = {
            method: channel.unary_unary(method) for method in UNARY_METHODS
        }
        self._streams: dict[str, grpc.aio.UnaryStreamMultiCallable[bytes, bytes]] = {
            method: channel.unary_stream(method) for method in STREAM_METHODS
        }

    async def forward(self, method: str, request: bytes, context: Context) -> bytes:
        """Pass one unary call on: the caller's metadata and deadline, these request bytes.

        The answer's metadata reach the caller by `context`.
        Raises: grpc.aio.AioRpcError: containerd refused, or is not there.
        On cancel: the call to containerd is cancelled too.
        """
        call = self._unary[method](
            request, metadata=_passed(context), timeout=context.time_remaining()
        )
        answer: bytes = await call
        if initial := await call.initial_metadata():
            await context.send_initial_metadata(initial)
        if trailing := await call.trailing_metadata():
            context.set_trailing_metadata(trailing)
        return answer

    async def stream(
        self, method: str, request: bytes, context: Context
    ) -> AsyncGenerator[bytes, None]:
        """Pass a server-streaming call on and yield containerd's answers.

        Raises: grpc.aio.AioRpcError: containerd refused, is not there, or went away.
        On close: the call to containerd is cancelled.
        """
        call = self._streams[method](
            request, metadata=_passed(context), timeout=context.time_remaining()
        )
        try:
            # At once, not with the first message: an event stream may be silent for hours.
            await context.send_initial_metadata(await call.initial_metadata())
            async for answer in call:
                yield answer
            context.set_trailing_metadata(await call.trailing_metadata())
        finally:
            call.cancel()

    async def exchange(self, method: str, context: Context) -> AsyncGenerator[bytes, None]:
        """Pass on a call of unknown shape, the requests read from `context`.

        Every shape is a case of streams both ways; but a gRPC stream whose server refuses while we
        still send ends as INTERNAL, and a kubelet that asks for a new method needs to hear
        UNIMPLEMENTED. So one request that ends the caller's side is sent as one.
        """
        requests = _Requests(context)
        try:
            only = await requests.only()
            single, several = self._channel.unary_stream, self._channel.stream_stream
            start: Any = several(method) if only is None else single(method)
            call = start(
                requests.all() if only is None else only,
                metadata=_passed(context),
                timeout=context.time_remaining(),
            )
            try:
                await context.send_initial_metadata(await call.initial_metadata())
                async for answer in call:
                    yield answer
                context.set_trailing_metadata(await call.trailing_metadata())
            finally:
                call.cancel()
        finally:
            requests.close()

    def refuse(self, error: grpc.aio.AioRpcError, context: Context) -> None:
        """End the caller's call as containerd ended ours, or say that containerd is not there."""
        details = error.details() or ""
        if (
            error.code() is grpc.StatusCode.UNAVAILABLE
            and self._channel.get_state() is not grpc.ChannelConnectivity.READY
        ):
            details = f"containerd does not answer at {self._socket}: {details}"
        context.set_code(error.code())
        context.set_details(details)
        context.set_trailing_metadata(error.trailing_metadata() or ())


def _passed(context: Context) -> list[tuple[str, str | bytes]]:
    """Return the caller's metadata without what belongs to the hop."""
    metadata = context.invocation_metadata() or ()
    return [(key, value) for key, value in metadata if key not in _HOP_HEADERS]


class _Requests:
    """What a caller sends, looked at before it is passed on."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._first: Any = grpc.aio.EOF
        self._second: asyncio.Future[Any] | None = None

    async def only(self) -> bytes | None:
        """Return the first request if the caller's side ends with it, as in unary calls."""
        self._first = await self._context.read()
        if self._first is grpc.aio.EOF:
            return None
        self._second = asyncio.ensure_future(self._context.read())
        await asyncio.wait({self._second}, timeout=_HALF_CLOSE_S)
        ended = self._second.done() and self._second.result() is grpc.aio.EOF
        return self._first if ended else None

    async def all(self) -> AsyncGenerator[bytes, None]:
        """Yield every request."""
        if self._second is None:
            return
        yield self._first
        message = await self._second
        while message is not grpc.aio.EOF:
            yield message
            message = await self._context.read()

    def close(self) -> None:
        """Ask for no more."""
        if self._second is not None:
            self._second.cancel()
