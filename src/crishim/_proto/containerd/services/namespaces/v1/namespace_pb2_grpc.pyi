from collections.abc import AsyncIterator

from google.protobuf.empty_pb2 import Empty
from grpc import aio

from crishim._proto.containerd.services.namespaces.v1 import namespace_pb2

class NamespacesStub:
    def __init__(self, channel: aio.Channel) -> None: ...
    Get: aio.UnaryUnaryMultiCallable[namespace_pb2.GetNamespaceRequest, namespace_pb2.GetNamespaceResponse]
    List: aio.UnaryUnaryMultiCallable[namespace_pb2.ListNamespacesRequest, namespace_pb2.ListNamespacesResponse]
    Create: aio.UnaryUnaryMultiCallable[namespace_pb2.CreateNamespaceRequest, namespace_pb2.CreateNamespaceResponse]
    Update: aio.UnaryUnaryMultiCallable[namespace_pb2.UpdateNamespaceRequest, namespace_pb2.UpdateNamespaceResponse]
    Delete: aio.UnaryUnaryMultiCallable[namespace_pb2.DeleteNamespaceRequest, Empty]

class NamespacesServicer:
    async def Get(self, request: namespace_pb2.GetNamespaceRequest, context: aio.ServicerContext[namespace_pb2.GetNamespaceRequest, namespace_pb2.GetNamespaceResponse]) -> namespace_pb2.GetNamespaceResponse: ...
    async def List(self, request: namespace_pb2.ListNamespacesRequest, context: aio.ServicerContext[namespace_pb2.ListNamespacesRequest, namespace_pb2.ListNamespacesResponse]) -> namespace_pb2.ListNamespacesResponse: ...
    async def Create(self, request: namespace_pb2.CreateNamespaceRequest, context: aio.ServicerContext[namespace_pb2.CreateNamespaceRequest, namespace_pb2.CreateNamespaceResponse]) -> namespace_pb2.CreateNamespaceResponse: ...
    async def Update(self, request: namespace_pb2.UpdateNamespaceRequest, context: aio.ServicerContext[namespace_pb2.UpdateNamespaceRequest, namespace_pb2.UpdateNamespaceResponse]) -> namespace_pb2.UpdateNamespaceResponse: ...
    async def Delete(self, request: namespace_pb2.DeleteNamespaceRequest, context: aio.ServicerContext[namespace_pb2.DeleteNamespaceRequest, Empty]) -> Empty: ...

def add_NamespacesServicer_to_server(
    servicer: NamespacesServicer, server: aio.Server
) -> None: ...
