from collections.abc import AsyncIterator

from google.protobuf.empty_pb2 import Empty
from grpc import aio

from crishim._proto.containerd.services.containers.v1 import containers_pb2

class ContainersStub:
    def __init__(self, channel: aio.Channel) -> None: ...
    Get: aio.UnaryUnaryMultiCallable[containers_pb2.GetContainerRequest, containers_pb2.GetContainerResponse]
    List: aio.UnaryUnaryMultiCallable[containers_pb2.ListContainersRequest, containers_pb2.ListContainersResponse]
    ListStream: aio.UnaryStreamMultiCallable[containers_pb2.ListContainersRequest, containers_pb2.ListContainerMessage]
    Create: aio.UnaryUnaryMultiCallable[containers_pb2.CreateContainerRequest, containers_pb2.CreateContainerResponse]
    Update: aio.UnaryUnaryMultiCallable[containers_pb2.UpdateContainerRequest, containers_pb2.UpdateContainerResponse]
    Delete: aio.UnaryUnaryMultiCallable[containers_pb2.DeleteContainerRequest, Empty]

class ContainersServicer:
    async def Get(self, request: containers_pb2.GetContainerRequest, context: aio.ServicerContext[containers_pb2.GetContainerRequest, containers_pb2.GetContainerResponse]) -> containers_pb2.GetContainerResponse: ...
    async def List(self, request: containers_pb2.ListContainersRequest, context: aio.ServicerContext[containers_pb2.ListContainersRequest, containers_pb2.ListContainersResponse]) -> containers_pb2.ListContainersResponse: ...
    def ListStream(self, request: containers_pb2.ListContainersRequest, context: aio.ServicerContext[containers_pb2.ListContainersRequest, containers_pb2.ListContainerMessage]) -> AsyncIterator[containers_pb2.ListContainerMessage]: ...
    async def Create(self, request: containers_pb2.CreateContainerRequest, context: aio.ServicerContext[containers_pb2.CreateContainerRequest, containers_pb2.CreateContainerResponse]) -> containers_pb2.CreateContainerResponse: ...
    async def Update(self, request: containers_pb2.UpdateContainerRequest, context: aio.ServicerContext[containers_pb2.UpdateContainerRequest, containers_pb2.UpdateContainerResponse]) -> containers_pb2.UpdateContainerResponse: ...
    async def Delete(self, request: containers_pb2.DeleteContainerRequest, context: aio.ServicerContext[containers_pb2.DeleteContainerRequest, Empty]) -> Empty: ...

def add_ContainersServicer_to_server(
    servicer: ContainersServicer, server: aio.Server
) -> None: ...
