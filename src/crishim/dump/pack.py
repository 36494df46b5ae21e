"""The last entries of an archive, and its manifest: what is written once the memory is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from crishim.aio.lanes import Lane
from crishim.aio.shield import in_thread
from crishim.archive.carried import MEMBER
from crishim.archive.criuimages import mend_files
from crishim.container import describe, logs, unkept
from crishim.dump import metadata, scopes, timers
from crishim.dump.checks import namedfiles
from crishim.tools import criu

if TYPE_CHECKING:
    from pathlib import Path

    from crishim.archive.manifest import Manifest
    from crishim.archive.writer import ArchiveWriter
    from crishim.dump.freeze import Frozen
    from crishim.dump.memory import Written
    from crishim.dump.trail import Trail


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A dump whose archive is complete and has no name yet.

    Attributes:
        manifest: without the list of entries.
        images: where the restore that waits finds the page images as files; None if nowhere.
    """

    frozen: Frozen
    manifest: Manifest
    images: Path | None


async def pack(frozen: Frozen, written: Written, *, freeze_us: int) -> Packed:
    """Complete the archive.

    It is durable then, unless a restore waits for it: that one cannot wait for a disk too.
    Args: freeze_us: how long the processes stood still; until now if they still do.
    Raises: NoSpace, Precondition: as the disk says. On cancel: what runs is waited for.
    """
    writer, trail = frozen.prepared.writer, frozen.prepared.trail
    # A source that is to end is frozen still.
    lane = Lane.PAUSE if frozen.prepared.parts.request.stop else Lane.BULK
    images = None
    image_bytes = written.page_bytes + await in_thread(_add, frozen, written, lane=lane)
    if trail is None:
        await in_thread(writer.seal, lane=lane)
    else:
        images = await in_thread(_digest, writer, trail, lane=lane)
    manifest = await in_thread(_manifest, frozen, image_bytes, freeze_us, lane=lane)
    await in_thread(writer.complete, manifest, lane=lane)
    if trail is None:
        await in_thread(writer.sync, lane=lane)
    return Packed(frozen=frozen, manifest=manifest, images=images)


def _add(frozen: Frozen, written: Written) -> int:
    """Add all that is not pages; return the bytes of CRIU's images among it."""
    prepared, parts = frozen.prepared, frozen.prepared.parts
    writer, workspace = prepared.writer, parts.workspace
    namedfiles.check(workspace.images, parts.source, stop=parts.request.stop)
    mend_files(workspace.images, timers.rearm, scopes.name_interface)
    image_bytes = writer.add_images(workspace.images)
    if carried := parts.gatherer.entry():
        writer.add_bytes(MEMBER, carried)
    parts.phases.lose(parts.gatherer.losses)
    parts.phases.lose(unkept.by_criu(workspace.path / "dump.log"))
    prepared.files.add()
    parts.shared_memory.add(writer)
    for name in ("stats-dump", "dump.log"):
        writer.add_bytes(name, (workspace.path / name).read_bytes())
    container, frozen_at_ns = parts.source.container, frozen.frozen_at_ns
    described = metadata.entries(container, checkpointed_at_ns=frozen_at_ns)
    for name, data in described.items():
        writer.add_bytes(name, data)
    if written.log is not None:
        logs.add(writer, written.log)
    return image_bytes


def _digest(writer: ArchiveWriter, trail: Trail) -> Path | None:
    known, images = trail.finish()
    writer.digest(known)
    return images


def _manifest(frozen: Frozen, image_bytes: int, freeze_us: int) -> Manifest:
    prepared, parts = frozen.prepared, frozen.prepared.parts
    phases = parts.phases
    return describe.manifest(
        parts.source,
        prepared.tools,
        describe.Facts(
            frozen_at_ns=frozen.frozen_at_ns,
            tcp=parts.request.tcp,
            source_running=not parts.request.stop,
            interfaces=prepared.interfaces,
            freeze_us=freeze_us,
            image_bytes=image_bytes,
            layer_bytes=prepared.files.layer_bytes,
            phases_us={phase.name: phase.duration_us for phase in phases.done},
            criu=criu.read_dump_statistics(parts.workspace.path / "stats-dump"),
            losses=phases.losses,
        ),
    )
