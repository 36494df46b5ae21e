"""The manifest of an archive: what was dumped, where, how, and a digest of every entry.

It is the last entry, `crishim.json`: a JSON object of `format`, `version`, `digest` and `manifest`,
where the digest covers the canonical text of the last. This module must never know tar or files.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from crishim import losses as lost
from crishim import strictjson
from crishim.archive.digest import digest_bytes
from crishim.errors import Corrupt, Precondition

NAME = "crishim.json"
VERSION = 2
"""The newest version that is read. What an older reader would leave out in silence makes a manifest
one of a newer version, and nothing else does: 2 holds volumes of the image."""

BYTES_MAX = 32 << 20
_FORMAT = "crishim-checkpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """Whose state it is, in the words of CRI.

    Attributes:
        image: as the pod's specification names it.
        image_id: the id of the image in the runtime, "sha256:...".
        image_digests: names with digests ("repository@sha256:...") to pull it by.
        annotations: of the container; none in archives of crishim 0.1.
    """

    container_id: str
    name: str
    pod_name: str
    pod_namespace: str
    pod_uid: str
    image: str
    image_id: str
    image_digests: tuple[str, ...]
    annotations: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """Where it was dumped; a restore compares.

    Attributes:
        cpu_features: the flags of /proc/cpuinfo, sorted.
    """

    architecture: str
    cpu_features: tuple[str, ...]
    kernel: str
    criu: str
    runc: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the dump was asked for.

    Attributes:
        tcp: "established", "close" or "refuse".
        source_running: the container went on after the dump, so its memory is older than its
            volumes may be.
    """

    tcp: str
    file_locks: bool
    external_unix_sockets: bool
    source_running: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BindMount:
    """A mount from outside that a restore needs again, matched by destination."""

    destination: str
    source: str
    is_directory: bool
    readonly: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Sizes and times of the dump.

    Attributes:
        freeze_us: from the pause to the resume, as the container saw it.
        phases_us: time of each phase by its name, in order.
        criu: the numbers of CRIU's own stats-dump by its names.
    """

    freeze_us: int
    image_bytes: int
    layer_bytes: int
    phases_us: dict[str, int] = field(default_factory=dict)
    criu: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file of the archive; the manifest itself is not listed."""

    name: str
    size: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything; `entries` are filled in by the archive's writer.

    Attributes:
        interfaces: the pod's network interfaces, in the JSON form of their own type.
        losses: what the dump could not keep; none in archives of crishim 0.1.
        image_volumes: destinations of the image's volumes whose content is in the archive; none in
            archives of crishim 0.1. See `volumes`.
    """

    created_at_ns: int
    container: Container
    platform: Platform
    options: Options
    interfaces: tuple[dict[str, Any], ...]
    bind_mounts: tuple[BindMount, ...]
    statistics: Statistics
    entries: tuple[Entry, ...] = ()
    losses: tuple[lost.Loss, ...] = ()
    image_volumes: tuple[str, ...] = ()


def encode(manifest: Manifest) -> bytes:
    """Return the text of a manifest."""
    body = asdict(manifest)
    document = {
        "format": _FORMAT,
        "version": 2 if manifest.image_volumes else 1,
        "digest": digest_bytes(_canonical(body)),
        "manifest": body,
    }
    return json.dumps(document, indent=1, ensure_ascii=True).encode() + b"\n"


def decode(data: bytes) -> Manifest:
    """Read a manifest that anybody may have written.

    Raises: Corrupt: not a manifest, or a changed one. Precondition: made by a newer version of us.
    """
    document = strictjson.parse(data, what=NAME)
    if document.text("format") != _FORMAT:
        raise Corrupt(f"{NAME} is not a manifest of ours")
    version = document.whole("version")
    if not 1 <= version <= VERSION:
        raise Precondition(
            f"the checkpoint has format version {version}, this crishim reads 1 to {VERSION}",
            hint="restore it with a newer crishim",
        )
    body = document.section("manifest")
    if document.text("digest") != digest_bytes(_canonical(body.raw())):
        raise Corrupt(f"{NAME} does not match its own digest")
    return _manifest(body)


def _canonical(body: dict[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _manifest(body: strictjson.Reader) -> Manifest:
    return Manifest(
        created_at_ns=body.whole("created_at_ns"),
        container=_container(body.section("container")),
        platform=_platform(body.section("platform")),
        options=_options(body.section("options")),
        interfaces=body.raw_sections("interfaces"),
        bind_mounts=tuple(_bind_mount(item) for item in body.sections("bind_mounts")),
        statistics=_statistics(body.section("statistics")),
        entries=tuple(_entry(item) for item in body.sections("entries")),
        losses=lost.decode(body.sections("losses")) if body.has("losses") else (),
        image_volumes=body.texts("image_volumes") if body.has("image_volumes") else (),
    )


def _container(item: strictjson.Reader) -> Container:
    return Container(
        container_id=item.text("container_id"),
        name=item.text("name"),
        pod_name=item.text("pod_name"),
        pod_namespace=item.text("pod_namespace"),
        pod_uid=item.text("pod_uid"),
        image=item.text("image"),
        image_id=item.text("image_id"),
        image_digests=item.texts("image_digests"),
        annotations=item.text_map("annotations") if item.has("annotations") else {},
    )


def _platform(item: strictjson.Reader) -> Platform:
    return Platform(
        architecture=item.text("architecture"),
        cpu_features=item.texts("cpu_features"),
        kernel=item.text("kernel"),
        criu=item.text("criu"),
        runc=item.text("runc"),
    )


def _options(item: strictjson.Reader) -> Options:
    return Options(
        tcp=item.text("tcp"),
        file_locks=item.flag("file_locks"),
        external_unix_sockets=item.flag("external_unix_sockets"),
        source_running=item.flag("source_running"),
    )


def _bind_mount(item: strictjson.Reader) -> BindMount:
    return BindMount(
        destination=item.text("destination"),
        source=item.text("source"),
        is_directory=item.flag("is_directory"),
        readonly=item.flag("readonly"),
    )


def _statistics(item: strictjson.Reader) -> Statistics:
    return Statistics(
        freeze_us=item.whole("freeze_us"),
        image_bytes=item.whole("image_bytes"),
        layer_bytes=item.whole("layer_bytes"),
        phases_us=item.whole_map("phases_us"),
        criu=item.whole_map("criu"),
    )


def _entry(item: strictjson.Reader) -> Entry:
    return Entry(name=item.text("name"), size=item.whole("size"), digest=item.text("digest"))
