"""A CRI runtime of a few lines, on grpc.aio: what crishim sees of containerd, scripted by a test.

Also a program, for benchmarks: `python tests/fakes/cri_server.py SOCKET [CONTAINERS]`.
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from google.protobuf.message import Message

from crishim._proto.runtime.v1 import api_pb2

RUNTIME = "/runtime.v1.RuntimeService/"
IMAGES = "/runtime.v1.ImageService/"
OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", 1 << 20),
    ("grpc.absolute_max_metadata_size", 1 << 20),
    ("grpc.so_reuseport", 0),
    ("grpc.use_local_subchannel_pool", 1),
)
Requests = AsyncIterator[bytes]
Answer = Callable[[Requests, grpc.aio.ServicerContext], Awaitable[None]]


@dataclass
class Received:
    """One call as the runtime saw it."""

    method: str
    metadata: tuple[tuple[str, str | bytes], ...]
    time_remaining_s: float | None
    requests: list[bytes] = field(default_factory=list)
    cancelled: bool = False

    def header(self, key: str) -> list[str | bytes]:
        return [value for name, value in self.metadata if name == key]


class FakeRuntime(grpc.GenericRpcHandler):
    """Answers each method by the coroutine in `answers`, and remembers every call.

    An answer gets the raw requests and writes raw answers, so one kind serves all shapes.
    """

    def __init__(self, *, containers: int = 0) -> None:
        self.calls: list[Received] = []
        self.answers: dict[str, Answer] = {
            RUNTIME + "Version": answer_by(version),
            # Made anew for each call, as containerd does it.
            RUNTIME + "ListContainers": answer_by(lambda: container_list(containers)),
        }

    def service(self, details):
        if details.method not in self.answers:
            return None
        return grpc.stream_stream_rpc_method_handler(self._handler(details.method))

    def _handler(self, method):
        async def handle(requests, context):
            metadata = tuple((key, value) for key, value in context.invocation_metadata())
            call = Received(method, metadata, context.time_remaining())
            self.calls.append(call)

            async def remembered():
                async for request in requests:
                    call.requests.append(request)
                    yield request

            try:
                await self.answers[method](remembered(), context)
            except asyncio.CancelledError:
                call.cancelled = True
                raise

        return handle


def version() -> api_pb2.VersionResponse:
    return api_pb2.VersionResponse(
        version="0.1.0",
        runtime_name="fake",
        runtime_version="v1.2.3",
        runtime_api_version="v1",
    )


def container_list(count: int) -> api_pb2.ListContainersResponse:
    """Make a list whose entries weigh what real ones weigh, about 800 bytes."""
    return api_pb2.ListContainersResponse(
        containers=[
            api_pb2.Container(
                id=f"{number:064x}",
                pod_sandbox_id=f"{number:064x}",
                metadata=api_pb2.ContainerMetadata(name="server", attempt=1),
                image=api_pb2.ImageSpec(image="registry.invalid/team/server:v1.2.3"),
                image_ref="sha256:" + "a" * 64,
                state=api_pb2.CONTAINER_RUNNING,
                created_at=1_700_000_000_000_000_000 + number,
                labels={
                    "io.kubernetes.container.name": "server",
                    "io.kubernetes.pod.name": f"server-{number}",
                    "io.kubernetes.pod.namespace": "default",
                    "io.kubernetes.pod.uid": "0e5d1a58-9f2b-4a51-9d0e-3f0b6a0b9f1c",
                },
                annotations={
                    "io.kubernetes.container.hash": "deadbeef",
                    "io.kubernetes.container.restartCount": "0",
                    "io.kubernetes.container.terminationMessagePath": "/dev/termination-log",
                    "io.kubernetes.container.terminationMessagePolicy": "File",
                    "io.kubernetes.pod.terminationGracePeriod": "30",
                },
            )
            for number in range(count)
        ]
    )


def answer_by(make: Callable[[], Message]) -> Answer:
    """Answer every request with a message made for it."""

    async def answer(requests, context):
        async for _ in requests:
            pass
        await context.write(make().SerializeToString())

    return answer


def fail_with(code: grpc.StatusCode, details: str, *trailing: tuple[str, str | bytes]) -> Answer:
    async def answer(requests, context):
        await context.abort(code, details, trailing)

    return answer


async def echo(requests, context) -> None:
    """Send every request back."""
    async for request in requests:
        await context.write(request)


@contextlib.asynccontextmanager
async def serving(runtime: FakeRuntime, socket: Path) -> AsyncIterator[grpc.aio.Server]:
    """Serve `runtime` at `socket` inside the block; leaving it kills every call."""
    server = grpc.aio.server(handlers=[runtime], options=OPTIONS)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    try:
        yield server
    finally:
        await server.stop(None)


async def main() -> None:
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    async with serving(FakeRuntime(containers=count), Path(sys.argv[1])) as server:
        await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
