"""Records of images in containerd that CRI itself has no method for: pins and further names.

An image that is pinned stays, whatever the kubelet's collector wants. containerd's CRI reports an
image as pinned when one of its records carries a label, and the kubelet leaves it alone then. We
write a label of our own beside it, so that a pin that somebody else set (containerd's for the pause
image) is never taken away.

Source: containerd api/services/images/v1 (update masks of the form "labels.KEY");
internal/cri/labels and internal/cri/store/image (1.7 to 2.4).
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from google.protobuf.field_mask_pb2 import FieldMask

from crishim._proto.containerd.services.images.v1 import images_pb2, images_pb2_grpc
from crishim.containerd.service import Service
from crishim.errors import RuntimeAlreadyExists, RuntimeNotFound

if TYPE_CHECKING:
    import grpc.aio

_TIMEOUT_S = 10.0
_PINNED = "io.cri-containerd.pinned"
_OURS = "crishim.io/pinned-by"


class Images:
    """Calls to containerd's image service over a channel that somebody else owns.

    Args: namespace: containerd's namespace of CRI containers, usually "k8s.io".
    """

    def __init__(self, channel: grpc.aio.Channel, *, namespace: str) -> None:
        self._metadata = (("containerd-namespace", namespace),)
        self._images = Service(images_pb2_grpc.ImagesStub(channel))

    async def pin(self, name: str) -> bool:
        """Pin an image by the name of its record; return False if there is none.

        One that somebody else pinned is left as it is.
        """
        image = await self._get(name)
        if image is not None and not image.labels.get(_PINNED):
            await self._label(image, {_PINNED: "pinned", _OURS: "checkpoint"})
        return image is not None

    async def unpin(self, name: str) -> None:
        """Take our pin from a record; nothing to do if the record is gone."""
        image = await self._get(name)
        if image is not None:
            await self._label(image, {_PINNED: "", _OURS: ""})

    async def pinned(self) -> list[str]:
        """Return the names of the records that we pinned."""
        request = images_pb2.ListImagesRequest(filters=[f'labels."{_OURS}"==checkpoint'])
        answer = await self._call(self._images.List, request)
        return [image.name for image in answer.images]

    async def add_name(self, name: str, further: str) -> None:
        """Give an image a further name, unless that is some image's already.

        Nothing to do if there is no record of the first name.
        """
        image = await self._get(name)
        if image is None:
            return
        labels = {key: text for key, text in image.labels.items() if key not in (_PINNED, _OURS)}
        record = images_pb2.Image(name=further, target=image.target, labels=labels)
        with contextlib.suppress(RuntimeAlreadyExists):
            await self._call(self._images.Create, images_pb2.CreateImageRequest(image=record))

    async def _get(self, name: str) -> images_pb2.Image | None:
        try:
            answer = await self._call(self._images.Get, images_pb2.GetImageRequest(name=name))
        except RuntimeNotFound:
            return None
        image: images_pb2.Image = answer.image
        return image

    async def _label(self, image: images_pb2.Image, labels: dict[str, str]) -> None:
        """Set labels of a record and leave its others alone; "" removes one.

        The whole record goes with it, although the mask names labels only: containerd ends with a
        panic if an update has no target (1.7 to 2.4).
        """
        image.labels.update(labels)
        mask = FieldMask(paths=[f"labels.{key}" for key in labels])
        request = images_pb2.UpdateImageRequest(image=image, update_mask=mask)
        # Removed since it was read: then there is nothing to pin either.
        with contextlib.suppress(RuntimeNotFound):
            await self._call(self._images.Update, request)

    async def _call(self, method: Any, request: Any) -> Any:
        return await method(request, metadata=self._metadata, timeout=_TIMEOUT_S)
