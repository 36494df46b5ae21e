"""Read from a CRI create request whether a checkpoint is wanted, which one, and how.

Two ways lead here. crictl and programs name a checkpoint in place of the image: a name in the
store or an absolute path. A kubelet's pod names it in an annotation, and only what lies in the
store or in the kubelet's own directory of checkpoints, because anybody with a pod can write it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from crishim.checkpoint.reader import ArchiveReader
from crishim.checkpoint.resolve import from_kubelet
from crishim.checkpoint.restore import RestoreOptions
from crishim.errors import CrishimError, InvalidRequest, Precondition

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
    """A checkpoint that a new container is to be restored from, and how.

    Attributes:
        only: name of the one container whose checkpoint it may be; "" for any.
    """

    archive: Path
    options: RestoreOptions
    only: str = ""


def wanted(
    request: api_pb2.CreateContainerRequest, store: Store, restored: Restored
) -> Wanted | None:
    """Return what a create request asks for; None for an ordinary container. Blocks.

    Raises:
        InvalidRequest, NotFound: it names a checkpoint that is none.
        Precondition: it gives the checkpoint of this very container to another one.
    """
    image = request.config.image.image
    annotations = dict(request.sandbox_config.annotations) | dict(request.config.annotations)
    if image.startswith("/") or store.has(image):
        return Wanted(archive=store.find(image), options=_options(annotations, once=False))
    container = request.config.metadata.name
    references = _references(annotations.get(RESTORE, ""))
    if not references or restored.before(
        pod_uid=request.sandbox_config.metadata.uid, container=container
    ):
        return None
    options = _options(annotations, once=True)
    if "" in references:
        only = container if from_kubelet(annotations) else ""
        return Wanted(archive=store.find_for_pod(references[""]), options=options, only=only)
    if container not in references and options.on_failure == "fail":
        _refuse_misnamed(container, references, store)
    if reference := references.get(container):
        return Wanted(archive=store.find_for_pod(reference), options=options)
    return None


def read_manifest(archive: Path) -> Manifest:
    """Return the manifest of an archive; blocks, and raises as its reader does."""
    with ArchiveReader.open(archive) as reader:
        return reader.manifest()


def refuse_foreign(asked: Wanted, manifest: Manifest, namespace: str) -> None:
    """Refuse a pod the checkpoint of another namespace, or of another container than it names.

    One holds another tenant's memory. The other is what becomes of a reference without a name in a
    pod with init containers, sidecars or debug containers: all of them come with its annotation.
    """
    source = manifest.container
    if source.pod_namespace != namespace:
        raise Precondition(
            f"the checkpoint is of a pod in namespace {source.pod_namespace}",
            hint="a pod is restored from checkpoints of its own namespace only",
        )
    if asked.only and source.name != asked.only:
        raise Precondition(
            f"the pod names a checkpoint of container {source.name}, and this is {asked.only}",
            hint=f"say for which container of the pod it is: {RESTORE}: NAME=CHECKPOINT",
        )


def _references(value: str) -> dict[str, str]:
    """Return references by container from "REF", whose name is "", or "NAME=REF,NAME=REF"."""
    if "=" not in value:
        return {"": value.strip()} if value.strip() else {}
    found = {}
    for part in value.split(","):
        name, separator, reference = part.partition("=")
        if not separator:
            raise InvalidRequest(f"annotation {RESTORE}: {part.strip()[:80]!r} is not NAME=REF")
        found[name.strip()] = reference.strip()
    return found


def _refuse_misnamed(container: str, references: dict[str, str], store: Store) -> None:
    """Refuse a cold start where the annotation misspells a container that has a checkpoint.

    Which containers a pod is going to have no CRI request tells, but a checkpoint tells whose it
    is. One that cannot be read is the other container's own failure.
    """
    for name, reference in references.items():
        try:
            source = read_manifest(store.find_for_pod(reference)).container.name
        except CrishimError:
            continue
        if source == container:
            raise Precondition(
                f"{RESTORE} gives the checkpoint of container {container} to {name[:80]!r}, and "
                f"nothing to {container}",
                hint=f'correct the name, or add "{container}=" if it is to start cold',
            )


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
