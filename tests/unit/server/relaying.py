"""A relay on a socket, composed as the daemon does it, in front of a fake runtime."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc

from crishim._proto.runtime.v1 import api_pb2_grpc
from crishim.containerd.channel import open_channel, unix_target
from crishim.server.calls import Calls
from crishim.server.listen import bind, new_server
from crishim.server.relay.forwarder import Forwarder
from crishim.server.relay.handler import Relay
from crishim.server.relay.overrides import Override, StreamOverride
from tests.fakes.cri_server import OPTIONS, FakeRuntime, serving


@dataclass
class Relaying:
    """The two ends of a relay."""

    runtime: FakeRuntime
    runtime_socket: Path
    client: grpc.aio.Channel
    calls: Calls
    forwarder: Forwarder
    overrides: dict[str, Override]
    stream_overrides: dict[str, StreamOverride]

    def unary(self, method: str) -> grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]:
        return self.client.unary_unary(method)

    def stream(self, method: str) -> grpc.aio.UnaryStreamMultiCallable[bytes, bytes]:
        return self.client.unary_stream(method)

    @property
    def cri(self) -> api_pb2_grpc.RuntimeServiceStub:
        return api_pb2_grpc.RuntimeServiceStub(self.client)


@contextlib.asynccontextmanager
async def relaying(directory: Path, *, up: bool = True) -> AsyncIterator[Relaying]:
    """Serve a relay; `up`: with a runtime behind it.

    Overrides may be added until the method is called first.
    """
    runtime, runtime_socket = FakeRuntime(), directory / "runtime.sock"
    async with contextlib.AsyncExitStack() as stack:
        if up:
            await stack.enter_async_context(serving(runtime, runtime_socket))
        channel = await stack.enter_async_context(open_channel(runtime_socket))
        calls, forwarder = Calls(), Forwarder(channel, runtime_socket)
        overrides: dict[str, Override] = {}
        stream_overrides: dict[str, StreamOverride] = {}

        class Late(grpc.GenericRpcHandler):
            """Builds the relay at the first call, when the test has filled in its overrides."""

            relay: Relay | None = None

            def service(self, details):
                self.relay = self.relay or Relay(
                    forwarder, calls, overrides=overrides, stream_overrides=stream_overrides
                )
                return self.relay.service(details)

        server = new_server(Late())
        listener = bind(server, directory / "crishim.sock")
        await server.start()
        stack.push_async_callback(server.stop, None)
        client = await stack.enter_async_context(
            grpc.aio.insecure_channel(unix_target(listener.path), options=OPTIONS)
        )
        yield Relaying(
            runtime, runtime_socket, client, calls, forwarder, overrides, stream_overrides
        )
