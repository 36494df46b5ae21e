"""Put together what the manifest says of a container, its node and its dump."""

from __future__ import annotations

import platform
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crishim.archive import manifest as manifests
from crishim.container import volumes
from crishim.tools import criu
from crishim.tools import runc as runcs

if TYPE_CHECKING:
    from crishim.container.resolve import Source
    from crishim.kernel.net.interface import InterfaceState
    from crishim.losses import Loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """The programs of this node that take part in a dump."""

    runc: runcs.RuncFacts
    criu_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What one dump was asked for and what it cost."""

    frozen_at_ns: int
    tcp: str
    source_running: bool
    interfaces: tuple[InterfaceState, ...]
    freeze_us: int
    image_bytes: int
    layer_bytes: int
    phases_us: dict[str, int]
    criu: criu.DumpStatistics
    losses: tuple[Loss, ...] = ()


async def tools(source: Source) -> Tools:
    """Look at the tools that a dump of this container would use.

    Raises: Precondition: runc is missing. ToolMissing: CRIU is missing or too old, in the words
        that the kubelet's tests know.
    """
    return Tools(
        runc=await runcs.facts(source.runc.binary),
        criu_version=await criu.version(container=source.container.id),
    )


def manifest(source: Source, used: Tools, facts: Facts) -> manifests.Manifest:
    """Return the manifest of a finished dump, without its list of entries."""
    return manifests.Manifest(
        created_at_ns=facts.frozen_at_ns,
        container=_container(source),
        platform=this_platform(used),
        options=manifests.Options(
            tcp=facts.tcp,
            file_locks=True,
            external_unix_sockets=True,
            source_running=facts.source_running,
        ),
        interfaces=tuple(state.to_json() for state in facts.interfaces),
        bind_mounts=tuple(bind_mounts(source.container.spec)),
        statistics=manifests.Statistics(
            freeze_us=facts.freeze_us,
            image_bytes=facts.image_bytes,
            layer_bytes=facts.layer_bytes,
            phases_us=facts.phases_us,
            criu=asdict(facts.criu),
        ),
        losses=facts.losses,
        image_volumes=tuple(
            volume.destination
            for volume in volumes.of_container(source.container.spec, source.container.id)
        ),
    )


def this_platform(used: Tools) -> manifests.Platform:
    """Describe this node."""
    return manifests.Platform(
        architecture=platform.machine(),
        cpu_features=cpu_features(),
        kernel=platform.release(),
        criu=used.criu_version,
        runc=used.runc.version,
    )


def cpu_features() -> tuple[str, ...]:
    """Return the features of the first CPU that programs may have been built to use, sorted."""
    # Not as a whole: the kernel asks each CPU for its clock, which takes time where there are many.
    with open("/proc/cpuinfo", encoding="utf-8", buffering=4096) as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return tuple(sorted(value.split()))
    return ()


def has_user_namespace(spec: dict[str, Any]) -> bool:
    """Return whether the container's users are mapped (`hostUsers: false` in its pod)."""
    namespaces = spec.get("linux", {}).get("namespaces") or []
    return any(item.get("type") == "user" for item in namespaces)


def bind_mounts(spec: dict[str, object]) -> list[manifests.BindMount]:
    """Return the bind mounts of an OCI spec."""
    found = []
    mounts = spec.get("mounts")
    for mount in mounts if isinstance(mounts, list) else []:
        options = mount.get("options") or []
        if mount.get("type") == "bind" or "bind" in options or "rbind" in options:
            source = str(mount.get("source", ""))
            found.append(
                manifests.BindMount(
                    destination=str(mount.get("destination", "")),
                    source=source,
                    is_directory=_is_directory(source),
                    readonly="ro" in options,
                )
            )
    return found


def _is_directory(path: str) -> bool:
    try:
        return stat.S_ISDIR(Path(path).stat().st_mode)
    except OSError:
        return False


def _container(source: Source) -> manifests.Container:
    status, pod = source.container.status, source.sandbox.status.metadata
    reference = status.image_ref
    return manifests.Container(
        container_id=source.container.id,
        name=status.metadata.name,
        pod_name=pod.name,
        pod_namespace=pod.namespace,
        pod_uid=pod.uid,
        image=status.image.user_specified_image or status.image.image,
        image_id=status.image_id or (reference if reference.startswith("sha256:") else ""),
        image_digests=(reference,) if "@sha256:" in reference else (),
        annotations=dict(status.annotations),
    )
