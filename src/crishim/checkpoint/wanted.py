"""Read from a CRI create request whether a checkpoint is wanted, which one, and how.

Two ways lead here. crictl and programs name a checkpoint in place of the image: a name in the
store or an absolute path. A kubelet's pod names it in an annotation, and only what lies in the
store or in the kubelet's own directory of checkpoints, because anybody with a pod can write it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from crishim.checkpoint.reader import ArchiveReader
from crishim.checkpoint.restore import RestoreOptions
from crishim.errors import InvalidRequest, Precondition

if TYPE_CHECKING:
    from pathlib import Path

    from crishim._proto.runtime.v1 import api_pb2
    from crishim.checkpoint.manifest import Manifest
    from crishim.checkpoint.restored import Restored
    from crishim.checkpoint.store import Store

RESTORE = "crishim.io/restore"
COLD_NEEDS_POD = (
    "a cold start after a failed restore is the next container of the pod, which only a pod that "
    "names its checkpoint in an annotation can get"
)
_WORDS = {
    "crishim.io/address": ("keep", "new"),
    "crishim.io/tcp": ("established", "close", "refuse"),
    "crishim.io/on-restore-failure": ("fail", "cold"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A checkpoint that a new container is to be restored from, and how."""

    archive: Path
    options: RestoreOptions


def wanted(
    request: api_pb2.CreateContainerRequest, store: Store, restored: Restored
) -> Wanted | None:
    """Return what a create request asks for; None for an ordinary container.

    Raises: InvalidRequest, NotFound: it names a checkpoint that is none.
    """
    image = request.config.image.image
    annotations = dict(request.sandbox_config.annotations) | dict(request.config.annotations)
    if image.startswith("/") or store.has(image):
        return Wanted(archive=store.find(image), options=_options(annotations, once=False))
    reference = _of_container(annotations.get(RESTORE, ""), request.config.metadata.name)
    if not reference:
        return None
    if restored.before(
        pod_uid=request.sandbox_config.metadata.uid, container=request.config.metadata.name
    ):
        return None
    return Wanted(archive=store.find_for_pod(reference), options=_options(annotations, once=True))


def read_manifest(archive: Path) -> Manifest:
    """Return the manifest of an archive; blocks, and raises as its reader does."""
    with ArchiveReader.open(archive) as reader:
        return reader.manifest()


def refuse_foreign(manifest: Manifest, namespace: str) -> None:
    """Refuse a pod that names another namespace's checkpoint: it holds that tenant's memory."""
    if manifest.container.pod_namespace != namespace:
        raise Precondition(
            f"the checkpoint is of a pod in namespace {manifest.container.pod_namespace}",
            hint="a pod is restored from checkpoints of its own namespace only",
        )


def _of_container(value: str, container: str) -> str:
    """Return the reference for one container: "REF", or "NAME=REF,NAME=REF"."""
    if "=" not in value:
        return value.strip()
    for part in value.split(","):
        name, separator, reference = part.partition("=")
        if not separator:
            raise InvalidRequest(f"annotation {RESTORE}: {part.strip()[:80]!r} is not NAME=REF")
        if name.strip() == container:
            return reference.strip()
    return ""


def _options(annotations: dict[str, str], *, once: bool) -> RestoreOptions:
    for key, words in _WORDS.items():
        value = annotations.get(key, words[0])
        if value not in words:
            raise InvalidRequest(f"annotation {key}: {value[:80]!r} is none of {', '.join(words)}")
    on_failure = annotations.get("crishim.io/on-restore-failure", "fail")
    if on_failure == "cold" and not once:
        raise InvalidRequest(COLD_NEEDS_POD, hint=f"name the checkpoint in {RESTORE}")
    return RestoreOptions(
        address=annotations.get("crishim.io/address", ""),
        tcp=annotations.get("crishim.io/tcp", ""),
        on_failure=on_failure,
        once=once,
    )
