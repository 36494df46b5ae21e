from collections.abc import AsyncIterator

from google.protobuf.empty_pb2 import Empty
from grpc import aio

from crishim._proto.containerd.services.images.v1 import images_pb2

class ImagesStub:
    def __init__(self, channel: aio.Channel) -> None: ...
    Get: aio.UnaryUnaryMultiCallable[images_pb2.GetImageRequest, images_pb2.GetImageResponse]
    List: aio.UnaryUnaryMultiCallable[images_pb2.ListImagesRequest, images_pb2.ListImagesResponse]
    Create: aio.UnaryUnaryMultiCallable[images_pb2.CreateImageRequest, images_pb2.CreateImageResponse]
    Update: aio.UnaryUnaryMultiCallable[images_pb2.UpdateImageRequest, images_pb2.UpdateImageResponse]
    Delete: aio.UnaryUnaryMultiCallable[images_pb2.DeleteImageRequest, Empty]

class ImagesServicer:
    async def Get(self, request: images_pb2.GetImageRequest, context: aio.ServicerContext[images_pb2.GetImageRequest, images_pb2.GetImageResponse]) -> images_pb2.GetImageResponse: ...
    async def List(self, request: images_pb2.ListImagesRequest, context: aio.ServicerContext[images_pb2.ListImagesRequest, images_pb2.ListImagesResponse]) -> images_pb2.ListImagesResponse: ...
    async def Create(self, request: images_pb2.CreateImageRequest, context: aio.ServicerContext[images_pb2.CreateImageRequest, images_pb2.CreateImageResponse]) -> images_pb2.CreateImageResponse: ...
    async def Update(self, request: images_pb2.UpdateImageRequest, context: aio.ServicerContext[images_pb2.UpdateImageRequest, images_pb2.UpdateImageResponse]) -> images_pb2.UpdateImageResponse: ...
    async def Delete(self, request: images_pb2.DeleteImageRequest, context: aio.ServicerContext[images_pb2.DeleteImageRequest, Empty]) -> Empty: ...

def add_ImagesServicer_to_server(
    servicer: ImagesServicer, server: aio.Server
) -> None: ...
