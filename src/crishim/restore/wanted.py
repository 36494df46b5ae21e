"""Read from a CRI create request whether a checkpoint is wanted, which one, and how.

Two ways lead here. crictl and programs name a checkpoint in place of the image: a name in the
store or an absolute path. A kubelet's pod names it in an annotation, and only what lies in the
store or in the kubelet's own directory of checkpoints, because anybody with a pod can write it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from crishim.archive.reader import ArchiveReader
from crishim.container.resolve import from_kubelet
from crishim.errors import CrishimError, InvalidRequest, Precondition, final_refusals
from crishim.modes import AddressMode, OnFailure, TcpMode
from crishim.restore.options import RestoreOptions
from crishim.store.store import can_name, no_such

if TYPE_CHECKING:
    from pathlib import Path

    from crishim._proto.runtime.v1 import api_pb2
    from crishim.archive.manifest import Manifest
    from crishim.ids import ContainerId
    from crishim.restore.restored import Restored
    from crishim.store.store import Store

RESTORE = "crishim.io/restore"
COLD_NEEDS_POD = (
    "a cold start after a failed restore is the next container of the pod, which only a pod that "
    "names its checkpoint in an annotation can get"
)
_log = logging.getLogger(__name__)
_Word = TypeVar("_Word", bound=StrEnum)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A checkpoint that a new container is to be restored from, and how.

    Attributes:
        reference: as it was written.
        only: name of the one container whose checkpoint it may be; "" for any.
        unsettled: in which container this very restore was begun before, with an unknown end.
    """

    archive: Path
    options: RestoreOptions
    reference: str = ""
    only: str = ""
    unsettled: ContainerId | None = None


def may_want(request: api_pb2.CreateContainerRequest) -> bool:
    """Return False for what is an ordinary container for certain, without a look at any disk."""
    annotated = RESTORE in request.sandbox_config.annotations or RESTORE in (
        request.config.annotations
    )
    image = request.config.image.image
    return annotated or image.startswith("/") or can_name(image)


def wanted(
    request: api_pb2.CreateContainerRequest,
    store: Store,
    restored: Restored,
    *,
    is_image: bool = False,
) -> Wanted | None:
    """Return what a create request asks for; None for an ordinary container. Blocks.

    Args: is_image: the node has an image of the name that is given as one, which is meant then.
    Raises:
        InvalidRequest, NotFound: it names a checkpoint that is none.
        Precondition: it gives the checkpoint of this very container to another one.
    """
    image = request.config.image.image
    annotations = dict(request.sandbox_config.annotations) | dict(request.config.annotations)
    if not is_image and (image.startswith("/") or store.has(image)):
        return Wanted(archive=store.find(image), options=_options(annotations, once=False))
    pod, container = request.sandbox_config.metadata, request.config.metadata.name
    references = _references(annotations.get(RESTORE, ""))
    if not references or restored.before(pod_uid=pod.uid, container=container):
        return None
    options = _options(annotations, once=True)
    only = container if "" in references and from_kubelet(annotations) else ""
    if not {container, ""} & set(references) and options.on_failure is OnFailure.FAIL:
        _refuse_misnamed(container, references, store, namespace=pod.namespace)
    reference = references.get("") or references.get(container)
    if not reference:
        return None
    return Wanted(
        archive=store.find_for_pod(reference),
        options=options,
        reference=reference,
        only=only,
        unsettled=restored.unsettled(pod_uid=pod.uid, container=container),
    )


def read_manifest(archive: Path) -> Manifest:
    """Return the manifest of an archive; blocks, and raises as its reader does."""
    with ArchiveReader.open(archive) as reader:
        return reader.manifest()


def refuse_foreign(asked: Wanted, manifest: Manifest, namespace: str) -> None:
    """Refuse a pod the checkpoint of another namespace, or of another container than it names.

    One holds another tenant's memory, and that it is there is that tenant's business too. The other
    is what becomes of a reference without a name in a pod with init containers, sidecars or debug
    containers: all of them come with its annotation.
    Raises: NotFound, as for none at all. Precondition: another container's.
    """
    source = manifest.container
    if source.pod_namespace != namespace:
        _log.warning(
            "a pod of namespace %s names checkpoint %s, which is of namespace %s: refused",
            namespace,
            asked.reference,
            source.pod_namespace,
        )
        raise no_such(asked.reference)
    if asked.only and source.name != asked.only:
        with final_refusals():
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


def _refuse_misnamed(
    container: str, references: dict[str, str], store: Store, *, namespace: str
) -> None:
    """Refuse a cold start where the annotation misspells a container that has a checkpoint.

    Which containers a pod is going to have no CRI request tells, but a checkpoint tells whose it
    is. One that cannot be read, or is another tenant's, is the other container's own failure.
    """
    for name, reference in references.items():
        try:
            source = read_manifest(store.find_for_pod(reference)).container
        except CrishimError:
            continue
        if (source.pod_namespace, source.name) == (namespace, container):
            raise Precondition(
                f"{RESTORE} gives the checkpoint of container {container} to {name[:80]!r}, and "
                f"nothing to {container}",
                hint=f'correct the name, or add "{container}=" if it is to start cold',
            )


def _options(annotations: dict[str, str], *, once: bool) -> RestoreOptions:
    address = _word(annotations, "crishim.io/address", AddressMode)
    tcp = _word(annotations, "crishim.io/tcp", TcpMode)
    on_failure = _word(annotations, "crishim.io/on-restore-failure", OnFailure) or OnFailure.FAIL
    if on_failure is OnFailure.COLD and not once:
        raise InvalidRequest(COLD_NEEDS_POD, hint=f"name the checkpoint in {RESTORE}")
    return RestoreOptions(address=address, tcp=tcp, on_failure=on_failure, once=once)


def _word(annotations: dict[str, str], key: str, words: type[_Word]) -> _Word | None:
    """Return what an annotation says; None if it is not there."""
    value = annotations.get(key)
    try:
        return None if value is None else words(value)
    except ValueError:
        text = f"annotation {key}: {value!r:.80} is none of {', '.join(words)}"
        raise InvalidRequest(text) from None
