from collections.abc import AsyncIterator

from google.protobuf.empty_pb2 import Empty
from grpc import aio

from crishim._proto.containerd.services.events.v1 import events_pb2

class EventsStub:
    def __init__(self, channel: aio.Channel) -> None: ...
    Publish: aio.UnaryUnaryMultiCallable[events_pb2.PublishRequest, Empty]
    Forward: aio.UnaryUnaryMultiCallable[events_pb2.ForwardRequest, Empty]
    Subscribe: aio.UnaryStreamMultiCallable[events_pb2.SubscribeRequest, events_pb2..containerd.types.Envelope]

class EventsServicer:
    async def Publish(self, request: events_pb2.PublishRequest, context: aio.ServicerContext[events_pb2.PublishRequest, Empty]) -> Empty: ...
    async def Forward(self, request: events_pb2.ForwardRequest, context: aio.ServicerContext[events_pb2.ForwardRequest, Empty]) -> Empty: ...
    def Subscribe(self, request: events_pb2.SubscribeRequest, context: aio.ServicerContext[events_pb2.SubscribeRequest, events_pb2..containerd.types.Envelope]) -> AsyncIterator[events_pb2..containerd.types.Envelope]: ...

def add_EventsServicer_to_server(
    servicer: EventsServicer, server: aio.Server
) -> None: ...
