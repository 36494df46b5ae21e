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
    from crishim.container.resolve import Source
    from crishim.dump.gather import Gatherer
    from crishim.dump.memory import Written
    from crishim.dump.ownfiles import OwnFilesDump
    from crishim.dump.request import DumpRequest
    from crishim.dump.shm import SharedMemoryDump
    from crishim.dump.trail import Trail
    from crishim.dump.workspace import Workspace
    from crishim.flow.phases import Phases
    from crishim.kernel.net.interface import InterfaceState


@dataclass(slots=True, kw_only=True)
class Packing:
    """What becomes of one archive after its pages.

    Attributes:
        trail: has followed the pages for a restore that waits; None if none does.
        images: where that restore finds the page images as files, after `run`; None if nowhere.
    """

    source: Source
    request: DumpRequest
    tools: describe.Tools
    workspace: Workspace
    writer: ArchiveWriter
    layer: OwnFilesDump
    shared: SharedMemoryDump
    gatherer: Gatherer
    interfaces: tuple[InterfaceState, ...]
    trail: Trail | None
    images: Path | None = None

    async def run(self, written: Written, phases: Phases) -> Manifest:
        """Complete the archive; return its manifest, without the list of entries.

        It is durable then, unless a restore waits for it: that one cannot wait for a disk too.
        Raises: NoSpace, Precondition: as the disk says. On cancel: what runs is waited for.
        """
        # With `stop` the container is frozen still.
        lane = Lane.PAUSE if self.request.stop else Lane.BULK
        await in_thread(self._add, written, phases, lane=lane)
        if self.trail is None:
            await in_thread(self.writer.seal, lane=lane)
        else:
            await in_thread(self._digest, self.trail, lane=lane)
        manifest = await in_thread(self._manifest, written, phases, lane=lane)
        await in_thread(self.writer.complete, manifest, lane=lane)
        if self.trail is None:
            await in_thread(self.writer.sync, lane=lane)
        return manifest

    def _add(self, written: Written, phases: Phases) -> None:
        namedfiles.check(self.workspace.images, self.source, stop=self.request.stop)
        mend_files(self.workspace.images, timers.rearm, scopes.name_interface)
        written.image_bytes += self.writer.add_images(self.workspace.images)
        if carried := self.gatherer.entry():
            self.writer.add_bytes(MEMBER, carried)
        phases.lose(self.gatherer.losses)
        phases.lose(unkept.by_criu(self.workspace.path / "dump.log"))
        self.layer.add()
        self.shared.add(self.writer)
        for name in ("stats-dump", "dump.log"):
            self.writer.add_bytes(name, (self.workspace.path / name).read_bytes())
        described = metadata.entries(self.source.container, checkpointed_at_ns=written.frozen_at_ns)
        for name, data in described.items():
            self.writer.add_bytes(name, data)
        if written.log is not None:
            logs.add(self.writer, written.log)

    def _digest(self, trail: Trail) -> None:
        known, self.images = trail.finish()
        self.writer.digest(known)

    def _manifest(self, written: Written, phases: Phases) -> Manifest:
        last = "memory" if self.request.stop else "resume"
        return describe.manifest(
            self.source,
            self.tools,
            describe.Facts(
                frozen_at_ns=written.frozen_at_ns,
                tcp=self.request.tcp,
                source_running=not self.request.stop,
                interfaces=self.interfaces,
                freeze_us=phases.until_us("pause", last),
                image_bytes=written.image_bytes,
                layer_bytes=self.layer.layer_bytes,
                phases_us={phase.name: phase.duration_us for phase in phases.done},
                criu=criu.read_dump_statistics(self.workspace.path / "stats-dump"),
                losses=phases.losses,
            ),
        )
