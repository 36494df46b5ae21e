from collections.abc import AsyncIterator

from google.protobuf.empty_pb2 import Empty
from grpc import aio

from crishim._proto.containerd.services.leases.v1 import leases_pb2

class LeasesStub:
    def __init__(self, channel: aio.Channel) -> None: ...
    Create: aio.UnaryUnaryMultiCallable[leases_pb2.CreateRequest, leases_pb2.CreateResponse]
    Delete: aio.UnaryUnaryMultiCallable[leases_pb2.DeleteRequest, Empty]
    List: aio.UnaryUnaryMultiCallable[leases_pb2.ListRequest, leases_pb2.ListResponse]
    AddResource: aio.UnaryUnaryMultiCallable[leases_pb2.AddResourceRequest, Empty]
    DeleteResource: aio.UnaryUnaryMultiCallable[leases_pb2.DeleteResourceRequest, Empty]
    ListResources: aio.UnaryUnaryMultiCallable[leases_pb2.ListResourcesRequest, leases_pb2.ListResourcesResponse]

class LeasesServicer:
    async def Create(self, request: leases_pb2.CreateRequest, context: aio.ServicerContext[leases_pb2.CreateRequest, leases_pb2.CreateResponse]) -> leases_pb2.CreateResponse: ...
    async def Delete(self, request: leases_pb2.DeleteRequest, context: aio.ServicerContext[leases_pb2.DeleteRequest, Empty]) -> Empty: ...
    async def List(self, request: leases_pb2.ListRequest, context: aio.ServicerContext[leases_pb2.ListRequest, leases_pb2.ListResponse]) -> leases_pb2.ListResponse: ...
    async def AddResource(self, request: leases_pb2.AddResourceRequest, context: aio.ServicerContext[leases_pb2.AddResourceRequest, Empty]) -> Empty: ...
    async def DeleteResource(self, request: leases_pb2.DeleteResourceRequest, context: aio.ServicerContext[leases_pb2.DeleteResourceRequest, Empty]) -> Empty: ...
    async def ListResources(self, request: leases_pb2.ListResourcesRequest, context: aio.ServicerContext[leases_pb2.ListResourcesRequest, leases_pb2.ListResourcesResponse]) -> leases_pb2.ListResourcesResponse: ...

def add_LeasesServicer_to_server(
    servicer: LeasesServicer, server: aio.Server
) -> None: ...
