"""Write what an archive holds as files into a created container, before its processes are restored.

The layer into its snapshot, volumes of its image into its own, shared memory into its pod's, and
the log before what it will write itself. Knows nothing of memory images.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from crishim._proto.runtime.v1 import api_pb2
from crishim.aio.lanes import Lane
from crishim.aio.shield import in_thread
from crishim.container import logs, shm, volumes
from crishim.layer.apply import apply_layer
from crishim.layer.overlay import overlay_of_snapshot
from crishim.oci import devices
from crishim.restore.ownfiles import apply_volumes
from crishim.restore.shm import apply_shared_memory

if TYPE_CHECKING:
    from crishim.archive.reader import ArchiveReader
    from crishim.containerd.cri import Container
    from crishim.restore.context import RestoreContext


async def write_files(
    created: Container,
    archive: ArchiveReader,
    *,
    context: RestoreContext,
    lane: Lane = Lane.BULK,
) -> None:
    """Write an archive's layer into the snapshot of a container that has no task yet.

    And the volumes of its image into the container's own, and shared memory into the pod's.
    """
    mounts = await context.records.mounts(snapshotter=created.snapshotter, key=created.snapshot_key)
    overlay = overlay_of_snapshot([(m.type, m.source, m.options) for m in mounts])
    allowed = devices.allowed(created.spec)
    own = volumes.of_container(created.spec, created.id)

    def write() -> None:
        apply_layer(archive, overlay, device_allowed=allowed)
        destinations = archive.manifest().image_volumes
        apply_volumes(archive, destinations, own, device_allowed=allowed)

    await in_thread(write, lane=lane)
    if shm.MEMBER in archive.members:
        others = await context.cri.containers(created.sandbox)
        shared = any(other.state == api_pb2.CONTAINER_RUNNING for other in others)
        await in_thread(
            lambda: apply_shared_memory(archive, created.spec, shared=shared), lane=lane
        )


async def carry_log(created: Container, archive: ArchiveReader, *, lane: Lane = Lane.BULK) -> None:
    """Let a container's log begin with the old one's; nothing to do where it has none."""
    if created.status.log_path:
        await in_thread(logs.carry, archive, Path(created.status.log_path), lane=lane)
