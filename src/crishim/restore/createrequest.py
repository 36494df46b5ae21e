"""Turn a create request that names a checkpoint into one of its base image, fit for containerd.

What comes of it is an ordinary container of the image that the checkpoint was taken over. All else
comes from the new request: what a checkpoint says never widens what that container may do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crishim._proto.runtime.v1 import api_pb2
from crishim.errors import (
    NotFound,
    Precondition,
    RuntimeNotFound,
    RuntimeRefused,
    Unavailable,
    final_refusals,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crishim.archive import manifest as manifests
    from crishim.containerd.cri import Cri
    from crishim.containerd.images import Images

_NOT_CARRIED = ("cdi.k8s.io", "io.kubernetes.", "crishim.io/")
"""Annotations that belong to the old pod: its devices, the kubelet's notes, how it was restored."""


async def base_request(
    request: api_pb2.CreateContainerRequest,
    source: manifests.Container,
    *,
    cri: Cri,
    images: Images,
) -> api_pb2.CreateContainerRequest:
    """Return the request with the checkpoint's base image in place of what it names.

    Beside the request's annotations it has those of the checkpoint's container, but for devices.
    Raises: NotFound: the image is neither on the node nor in its registry. Unavailable: it cannot
        be pulled now. Precondition: another image has its name now.
    """
    changed = api_pb2.CreateContainerRequest()
    changed.CopyFrom(request)
    changed.config.image.image = await _image(request, source, cri, images)
    changed.config.image.user_specified_image = source.image
    changed.config.annotations.update(
        merged_annotations(request.config.annotations, source.annotations)
    )
    return changed


def merged_annotations(asked: Mapping[str, str], source: Mapping[str, str]) -> dict[str, str]:
    """Return the annotations that the checkpoint's container had, and those that are asked for."""
    carried = {key: text for key, text in source.items() if not key.startswith(_NOT_CARRIED)}
    return carried | dict(asked)


async def _image(
    request: api_pb2.CreateContainerRequest,
    source: manifests.Container,
    cri: Cri,
    images: Images,
) -> str:
    """Return a name of the base image: looked for by id and digest, then by name, then pulled."""
    for name in filter(None, (source.image_id, *source.image_digests, source.image)):
        if _same(await cri.image_id(name), source.image_id):
            return name
    name = next(filter(None, (*source.image_digests, source.image)), "")
    try:
        await cri.pull_image(name, request.sandbox_config)
    except RuntimeRefused as error:
        # Only a registry's word that there is none is final; it may be out of reach now.
        gone = isinstance(error, RuntimeNotFound)
        with final_refusals():
            raise (NotFound if gone else Unavailable)(
                f"the checkpoint's base image {source.image} is not on this node",
                details=f"pulling {name} failed: {error.details}",
                hint="pull or import that very image first",
            ) from error
    if not (found := await cri.image_id(name)):
        # A kubelet that is short of space removes images as soon as they are there.
        raise Unavailable(f"the image {name} is gone again after it was pulled", hint="try again")
    with final_refusals():
        if not _same(found, source.image_id):
            raise Precondition(
                f"{name} is another image now than the checkpoint's",
                hint=f"the writable layer lies over {source.image_id} and over nothing else",
            )
    if further := tag_of(source.image, pulled_as=name):
        await images.add_name(name, further)
    return name


def tag_of(image: str, *, pulled_as: str) -> str:
    """Return the full tagged name of an image that was pulled by its digest; "" if it has none.

    Args: image: as somebody wrote it, often short: "redis:8". pulled_as: "repository@sha256:...".
    """
    repository, at, _ = pulled_as.partition("@")
    short, colon, tag = image.rpartition(":")
    if not colon or "/" in tag:
        short, tag = image, "latest"
    if not at or "@" in image or not f"/{repository}".endswith(f"/{short}"):
        return ""
    return f"{repository}:{tag}"


def _same(found: str, wanted: str) -> bool:
    """Compare ids of images; an archive that names none is content with the name."""
    return bool(found) and wanted in ("", found)
