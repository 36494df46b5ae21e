from collections.abc import AsyncIterator

from google.protobuf.empty_pb2 import Empty
from grpc import aio

from crishim._proto.containerd.services.version.v1 import version_pb2

class VersionStub:
    def __init__(self, channel: aio.Channel) -> None: ...
    Version: aio.UnaryUnaryMultiCallable[Empty, version_pb2.VersionResponse]

class VersionServicer:
    async def Version(self, request: Empty, context: aio.ServicerContext[Empty, version_pb2.VersionResponse]) -> version_pb2.VersionResponse: ...

def add_VersionServicer_to_server(
    servicer: VersionServicer, server: aio.Server
) -> None: ...
