"""Build the messages of `crishim.v1` from what the flows return."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from crishim._proto.crishim.v1 import crishim_pb2
from crishim.kernel.net.interface import InterfaceState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from crishim.archive.manifest import Manifest
    from crishim.dump.request import DumpResult
    from crishim.flow.phases import Phases
    from crishim.ids import ContainerId
    from crishim.losses import Loss
    from crishim.sandbox.heldrecord import HeldRecord
    from crishim.store.inspect import Inspection, Summary
    from crishim.store.store import Store


_CRIU = (
    "freezing_us", "frozen_us", "memdump_us", "memwrite_us", "pages_scanned", "pages_written",
)  # fmt: skip


def checkpoint_result(result: DumpResult, *, store: Store) -> crishim_pb2.CheckpointResult:
    """Return the last message of a dump."""
    statistics = _statistics(result.manifest, result.archive_bytes)
    statistics.frozen_us = result.frozen_us
    _add_phases(statistics, result.phases)
    return crishim_pb2.CheckpointResult(
        path=str(result.archive),
        name=store.name_of(result.archive),
        info=_info(result.archive, result.manifest, result.archive_bytes, store),
        statistics=statistics,
        warnings=_warnings(result.manifest.losses),
    )


def restore_result(
    container: ContainerId, addresses: tuple[str, ...], phases: Phases
) -> crishim_pb2.RestoreResult:
    """Return the last message of a restore."""
    result = crishim_pb2.RestoreResult(
        container_id=container, addresses=addresses, warnings=_warnings(phases.losses)
    )
    _add_phases(result.statistics, phases)
    return result


def archive_info(found: Summary, store: Store) -> crishim_pb2.CheckpointInfo:
    """Return what an archive of the store says of itself; an unreadable one says why."""
    if found.manifest is not None:
        return _info(found.archive, found.manifest, found.archive_bytes, store)
    return crishim_pb2.CheckpointInfo(
        name=store.name_of(found.archive),
        path=str(found.archive),
        archive_bytes=found.archive_bytes,
        error=found.error,
    )


def waiting(records: Iterable[HeldRecord], store: Store) -> list[crishim_pb2.Waiting]:
    """Return the stopped containers whose connections wait, oldest first."""
    found = []
    for record in sorted(records, key=lambda record: record.stopped_at_ns):
        for item in record.containers if record.waiting else ():
            message = crishim_pb2.Waiting(
                path=item.archive,
                name=store.name_of(Path(item.archive)),
                addresses=record.waiting,
                container_id=item.id,
                pod_sandbox_id=record.sandbox,
            )
            message.since.FromNanoseconds(record.stopped_at_ns)
            found.append(message)
    return found


def inspection(found: Inspection, store: Store) -> crishim_pb2.InspectCheckpointResponse:
    """Return what is inside an archive."""
    manifest = found.manifest
    answer = crishim_pb2.InspectCheckpointResponse(
        info=_info(found.archive, manifest, found.archive_bytes, store),
        statistics=_statistics(manifest, found.archive_bytes),
        warnings=_warnings(manifest.losses),
    )
    for name, duration_us in manifest.statistics.phases_us.items():
        answer.statistics.phases.add(name=name, duration_us=duration_us)
    for process in found.processes:
        answer.processes.add(**asdict(process))
    for socket in found.sockets:
        answer.sockets.add(**asdict(socket))
    for mount in found.mounts:
        answer.mounts.add(destination=mount.destination, type=mount.type, source=mount.source)
    for entry in manifest.entries:
        answer.entries.add(name=entry.name, size_bytes=entry.size, digest=entry.digest)
    return answer


def _info(
    archive: Path, manifest: Manifest, size_bytes: int, store: Store
) -> crishim_pb2.CheckpointInfo:
    source = manifest.container
    info = crishim_pb2.CheckpointInfo(
        name=store.name_of(archive),
        path=str(archive),
        container_id=source.container_id,
        container_name=source.name,
        pod_name=source.pod_name,
        pod_namespace=source.pod_namespace,
        pod_uid=source.pod_uid,
        image=source.image,
        source_running=manifest.options.source_running,
        archive_bytes=size_bytes,
    )
    info.created_at.FromNanoseconds(manifest.created_at_ns)
    for interface in manifest.interfaces:
        info.addresses.extend(InterfaceState.from_json(interface).global_addresses)
    return info


def _warnings(losses: Iterable[Loss]) -> list[crishim_pb2.Warning]:
    return [
        crishim_pb2.Warning(kind=loss.kind, pid=loss.pid, what=loss.what, cure=loss.cure)
        for loss in losses
    ]


def _statistics(manifest: Manifest, archive_bytes: int) -> crishim_pb2.Statistics:
    figures = manifest.statistics
    statistics = crishim_pb2.Statistics(
        freeze_us=figures.freeze_us,
        image_bytes=figures.image_bytes,
        layer_bytes=figures.layer_bytes,
        archive_bytes=archive_bytes,
    )
    for name in _CRIU:
        setattr(statistics, f"criu_{name}", figures.criu.get(name, 0))
    return statistics


def _add_phases(statistics: crishim_pb2.Statistics, phases: Phases) -> None:
    statistics.total_us = phases.elapsed_us
    for phase in phases.done:
        statistics.phases.add(
            name=phase.name, start_us=phase.begun_us, duration_us=phase.duration_us
        )
