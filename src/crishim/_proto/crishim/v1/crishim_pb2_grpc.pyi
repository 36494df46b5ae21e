from collections.abc import AsyncIterator

from google.protobuf.empty_pb2 import Empty
from grpc import aio

from crishim._proto.crishim.v1 import crishim_pb2

class CheckpointRestoreStub:
    def __init__(self, channel: aio.Channel) -> None: ...
    CheckpointContainer: aio.UnaryStreamMultiCallable[crishim_pb2.CheckpointContainerRequest, crishim_pb2.CheckpointContainerProgress]
    RestoreContainer: aio.UnaryStreamMultiCallable[crishim_pb2.RestoreContainerRequest, crishim_pb2.RestoreContainerProgress]
    ListCheckpoints: aio.UnaryUnaryMultiCallable[crishim_pb2.ListCheckpointsRequest, crishim_pb2.ListCheckpointsResponse]
    RemoveCheckpoint: aio.UnaryUnaryMultiCallable[crishim_pb2.RemoveCheckpointRequest, crishim_pb2.RemoveCheckpointResponse]
    InspectCheckpoint: aio.UnaryUnaryMultiCallable[crishim_pb2.InspectCheckpointRequest, crishim_pb2.InspectCheckpointResponse]
    Doctor: aio.UnaryUnaryMultiCallable[crishim_pb2.DoctorRequest, crishim_pb2.DoctorResponse]

class CheckpointRestoreServicer:
    def CheckpointContainer(self, request: crishim_pb2.CheckpointContainerRequest, context: aio.ServicerContext[crishim_pb2.CheckpointContainerRequest, crishim_pb2.CheckpointContainerProgress]) -> AsyncIterator[crishim_pb2.CheckpointContainerProgress]: ...
    def RestoreContainer(self, request: crishim_pb2.RestoreContainerRequest, context: aio.ServicerContext[crishim_pb2.RestoreContainerRequest, crishim_pb2.RestoreContainerProgress]) -> AsyncIterator[crishim_pb2.RestoreContainerProgress]: ...
    async def ListCheckpoints(self, request: crishim_pb2.ListCheckpointsRequest, context: aio.ServicerContext[crishim_pb2.ListCheckpointsRequest, crishim_pb2.ListCheckpointsResponse]) -> crishim_pb2.ListCheckpointsResponse: ...
    async def RemoveCheckpoint(self, request: crishim_pb2.RemoveCheckpointRequest, context: aio.ServicerContext[crishim_pb2.RemoveCheckpointRequest, crishim_pb2.RemoveCheckpointResponse]) -> crishim_pb2.RemoveCheckpointResponse: ...
    async def InspectCheckpoint(self, request: crishim_pb2.InspectCheckpointRequest, context: aio.ServicerContext[crishim_pb2.InspectCheckpointRequest, crishim_pb2.InspectCheckpointResponse]) -> crishim_pb2.InspectCheckpointResponse: ...
    async def Doctor(self, request: crishim_pb2.DoctorRequest, context: aio.ServicerContext[crishim_pb2.DoctorRequest, crishim_pb2.DoctorResponse]) -> crishim_pb2.DoctorResponse: ...

def add_CheckpointRestoreServicer_to_server(
    servicer: CheckpointRestoreServicer, server: aio.Server
) -> None: ...
