"""Runs on a node: calls CRI at both sockets, and tells in JSON lines what came of it.

`relay_probe.py restart` calls without pause, directly and through crishim, until both have failed
and worked again; `relay_probe.py events` watches container events through crishim and opens the
stream again when it ends.
"""

import asyncio
import json
import sys
import time
from pathlib import Path

import grpc

from crishim._proto.runtime.v1 import api_pb2, api_pb2_grpc
from crishim.containerd.channel import open_channel

DIRECT = Path("/run/containerd/containerd.sock")
THROUGH = Path("/run/crishim/crishim.sock")
WORKERS = 4
SETTLED_S = 1.0


def say(**words: object) -> None:
    print(json.dumps(words), flush=True)


class Way:
    """What callers of one socket saw."""

    def __init__(self, socket: Path) -> None:
        self.stub = api_pb2_grpc.RuntimeServiceStub(open_channel(socket))
        self.succeeded = 0
        self.codes: dict[str, int] = {}
        self.last_failure = 0.0

    async def call(self) -> None:
        """Call without pause; a call that fails is followed by a short one."""
        while True:
            try:
                await self.stub.Version(api_pb2.VersionRequest())
                await self.stub.ListContainers(api_pb2.ListContainersRequest())
            except grpc.aio.AioRpcError as error:
                self.codes[error.code().name] = self.codes.get(error.code().name, 0) + 1
                self.last_failure = time.monotonic()
                await asyncio.sleep(0.01)
            else:
                self.succeeded += 1

    @property
    def settled(self) -> bool:
        return bool(self.codes) and time.monotonic() - self.last_failure > SETTLED_S


async def restart() -> None:
    ways = {"direct": Way(DIRECT), "through": Way(THROUGH)}
    tasks = [asyncio.create_task(way.call()) for way in ways.values() for _ in range(WORKERS)]
    while not all(way.succeeded for way in ways.values()):
        await asyncio.sleep(0.01)
    say(ready=True)
    while not all(way.settled for way in ways.values()):
        await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    say(
        **{
            name: {"codes": way.codes, "last_failure_s": way.last_failure}
            for name, way in ways.items()
        }
    )


async def events() -> None:
    stub = api_pb2_grpc.RuntimeServiceStub(open_channel(THROUGH))
    while True:
        stream = stub.GetContainerEvents(api_pb2.GetEventsRequest())
        say(open=True)
        try:
            async for event in stream:
                say(event=event.container_event_type, container=event.container_id)
        except grpc.aio.AioRpcError as error:
            say(ended=error.code().name, details=error.details())
        while not await works(stub):
            await asyncio.sleep(0.01)


async def works(stub: api_pb2_grpc.RuntimeServiceStub) -> bool:
    try:
        await stub.Version(api_pb2.VersionRequest())
    except grpc.aio.AioRpcError:
        return False
    return True


asyncio.run({"restart": restart, "events": events}[sys.argv[1]]())
