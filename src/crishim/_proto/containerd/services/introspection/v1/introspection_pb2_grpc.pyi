from collections.abc import AsyncIterator

from google.protobuf.empty_pb2 import Empty
from grpc import aio

from crishim._proto.containerd.services.introspection.v1 import introspection_pb2

class IntrospectionStub:
    def __init__(self, channel: aio.Channel) -> None: ...
    Plugins: aio.UnaryUnaryMultiCallable[introspection_pb2.PluginsRequest, introspection_pb2.PluginsResponse]
    Server: aio.UnaryUnaryMultiCallable[Empty, introspection_pb2.ServerResponse]
    PluginInfo: aio.UnaryUnaryMultiCallable[introspection_pb2.PluginInfoRequest, introspection_pb2.PluginInfoResponse]

class IntrospectionServicer:
    async def Plugins(self, request: introspection_pb2.PluginsRequest, context: aio.ServicerContext[introspection_pb2.PluginsRequest, introspection_pb2.PluginsResponse]) -> introspection_pb2.PluginsResponse: ...
    async def Server(self, request: Empty, context: aio.ServicerContext[Empty, introspection_pb2.ServerResponse]) -> introspection_pb2.ServerResponse: ...
    async def PluginInfo(self, request: introspection_pb2.PluginInfoRequest, context: aio.ServicerContext[introspection_pb2.PluginInfoRequest, introspection_pb2.PluginInfoResponse]) -> introspection_pb2.PluginInfoResponse: ...

def add_IntrospectionServicer_to_server(
    servicer: IntrospectionServicer, server: aio.Server
) -> None: ...
