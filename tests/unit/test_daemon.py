"""The daemon as a node has it: its socket, its state for systemd, its start and its stop."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from crishim._proto.crishim.v1 import crishim_pb2
from crishim._proto.runtime.v1 import api_pb2, api_pb2_grpc
from crishim.config import Config, ContainerdConfig, LogConfig, ServerConfig
from crishim.daemon import serve as daemon
from crishim.errors import Busy, InvalidRequest
from crishim.housekeeping.recovery import Recovery
from crishim.paths import Paths
from crishim.server import health
from tests.fakes.cri_server import OPTIONS, RUNTIME, FakeRuntime, serving

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICES = [
    "crishim.v1.CheckpointRestore",
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
    "runtime.v1.ImageService",
    "runtime.v1.RuntimeService",
]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(
        server=ServerConfig(socket=tmp_path / "run" / "crishim.sock"),
        containerd=ContainerdConfig(socket=tmp_path / "containerd.sock"),
        log=LogConfig(level="debug"),
        paths=Paths(state=tmp_path / "state", run=tmp_path / "run"),
    )


class Manager:
    """systemd's end: the datagrams, as they come."""

    def __init__(self, receiver: socket.socket) -> None:
        self._receiver = receiver

    async def says(self, wanted: str) -> None:
        """Wait for a datagram that contains `wanted`."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(5):
            while wanted not in (await loop.sock_recv(self._receiver, 500)).decode():
                pass


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield Manager(receiver)


@contextlib.asynccontextmanager
async def running(config: Config, manager: Manager) -> AsyncIterator[grpc.aio.Channel]:
    """Run the daemon inside the block, and stop it by SIGTERM if the block has not."""
    serve = asyncio.create_task(daemon.serve(config))
    await manager.says("READY=1")
    async with grpc.aio.insecure_channel(f"unix:{config.server.socket}", options=OPTIONS) as client:
        try:
            yield client
        finally:
            if not serve.done():
                os.kill(os.getpid(), signal.SIGTERM)
            async with asyncio.timeout(10):
                assert await serve == 0


async def health_becomes(client: grpc.aio.Channel, wanted: int, service: str = "") -> None:
    request = health_pb2.HealthCheckRequest(service=service)
    watch = health_pb2_grpc.HealthStub(client).Watch(request)
    async with asyncio.timeout(5):
        while (await watch.read()).status != wanted:
            pass
    watch.cancel()


async def test_containerd_may_come_later(config: Config, manager: Manager) -> None:
    async with running(config, manager) as client:
        await manager.says(f"STATUS=containerd does not answer at {config.containerd.socket}")
        await health_becomes(client, NOT_SERVING)
        stub = api_pb2_grpc.RuntimeServiceStub(client)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Version(api_pb2.VersionRequest())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert f"containerd does not answer at {config.containerd.socket}" in caught.value.details()

        async with serving(FakeRuntime(), config.containerd.socket):
            await manager.says("STATUS=serving for fake v1.2.3")
            for service in ("", "runtime.v1.RuntimeService", "crishim.v1.CheckpointRestore"):
                await health_becomes(client, SERVING, service)
            assert (await stub.Version(api_pb2.VersionRequest())).runtime_name == "fake"

        await manager.says("STATUS=containerd does not answer")
        await health_becomes(client, NOT_SERVING)


async def test_containerd_that_hangs_is_noticed(
    config: Config, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "PROBE_INTERVAL_S", 0.02)
    monkeypatch.setattr(health, "PROBE_TIMEOUT_S", 0.05)
    runtime = FakeRuntime()
    answers, works = runtime.answers[RUNTIME + "Version"], asyncio.Event()

    async def hang(requests, context):
        await works.wait()
        await answers(requests, context)

    works.set()
    runtime.answers[RUNTIME + "Version"] = hang
    async with serving(runtime, config.containerd.socket), running(config, manager) as client:
        await health_becomes(client, SERVING)
        works.clear()
        await health_becomes(client, NOT_SERVING)
        works.set()
        await health_becomes(client, SERVING)


async def test_sigterm_lets_a_running_call_end(config: Config, manager: Manager) -> None:
    runtime, begun, end = FakeRuntime(), asyncio.Event(), asyncio.Event()

    async def slow(requests, context):
        begun.set()
        await end.wait()
        await context.write(b"answer")

    runtime.answers[RUNTIME + "Status"] = slow
    async with (
        serving(runtime, config.containerd.socket),
        running(config, manager) as client,
    ):
        await manager.says("STATUS=serving for fake")
        call = client.unary_unary(RUNTIME + "Status")(b"")
        await begun.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await manager.says("STOPPING=1")
        with pytest.raises(grpc.aio.AioRpcError, match="crishim is stopping"):
            await client.unary_unary(RUNTIME + "Version")(b"")
        end.set()
        assert await call == b"answer"
    assert not config.server.socket.exists()


async def test_second_instance_is_refused_and_harms_nothing(
    config: Config, manager: Manager
) -> None:
    async with serving(FakeRuntime(), config.containerd.socket), running(config, manager) as client:
        with pytest.raises(Busy, match=f"another crishim is running here .pid {os.getpid()}"):
            await daemon.serve(config)
        answer = await api_pb2_grpc.RuntimeServiceStub(client).Version(api_pb2.VersionRequest())
        assert answer.runtime_name == "fake"


async def test_start_after_a_kill_replaces_the_socket(config: Config, manager: Manager) -> None:
    config.server.socket.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left_behind:
        left_behind.bind(str(config.server.socket))
    async with running(config, manager) as client:
        await health_becomes(client, NOT_SERVING)


async def test_nothing_on_disk_keeps_the_node_from_its_socket(
    config: Config, manager: Manager
) -> None:
    dumps, held = config.paths.dumps, config.paths.held
    (dumps / "a").mkdir(parents=True)
    (dumps / "a" / "directory").write_bytes(b"/nowhere/\xff")
    (dumps / "stray").write_text("x")
    held.mkdir()
    (held / "5a.json").write_bytes(b"\xff")
    config.paths.sandboxes.write_text("no directory")
    async with running(config, manager) as client:
        await health_becomes(client, NOT_SERVING)
        async with serving(FakeRuntime(), config.containerd.socket):
            await health_becomes(client, SERVING)


async def test_recovery_that_fails_is_begun_again(
    config: Config, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "_AGAIN_S", 0.01)
    attempts: list[str] = []
    tended = asyncio.Event()

    async def begin(_: object) -> None:
        attempts.append("begin")
        if len(attempts) < 3:
            raise RuntimeError("a defect")

    async def run(_: object) -> None:
        attempts.append("run")

    async def tend(_: object) -> None:
        attempts.append("tend")
        if attempts.count("tend") == 2:
            tended.set()
        raise RuntimeError("a defect")

    for step in (begin, run, tend):
        monkeypatch.setattr(Recovery, step.__name__, step)
    monkeypatch.setattr(daemon, "_TEND_EVERY_S", 0.01)
    async with serving(FakeRuntime(), config.containerd.socket), running(config, manager):
        await asyncio.wait_for(tended.wait(), 5)
    assert attempts[:6] == ["begin", "begin", "begin", "run", "tend", "tend"]


async def test_watchdog_is_fed(
    config: Config, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000")
    async with running(config, manager):
        for _ in range(3):
            await manager.says("WATCHDOG=1")


async def test_own_socket_and_containerds_must_differ(config: Config) -> None:
    same = Config(
        server=config.server,
        containerd=ContainerdConfig(socket=config.server.socket),
        paths=config.paths,
    )
    with pytest.raises(InvalidRequest, match="name one socket"):
        await daemon.serve(same)


async def test_reflection_tells_every_service(config: Config, manager: Manager) -> None:
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICES[0]),
    ]
    async with running(config, manager) as client:
        stub = reflection_pb2_grpc.ServerReflectionStub(client)
        listed, file = [answer async for answer in stub.ServerReflectionInfo(iter(requests))]
    assert sorted(entry.name for entry in listed.list_services_response.service) == SERVICES
    described = file.file_descriptor_response.file_descriptor_proto
    assert crishim_pb2.DESCRIPTOR.serialized_pb in described
