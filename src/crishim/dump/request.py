"""What a caller asks of a dump, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from crishim.archive.manifest import Manifest
    from crishim.flow.phases import Phases
    from crishim.ids import CheckpointName


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpRequest:
    """What a caller asks for.

    Attributes:
        container: id or unambiguous prefix.
        output: absolute path of the archive; None for the store.
        name: its name in the store; None for one made of pod, container and time.
        replace: a file that is there may go, unless somebody needs it (see `needed`).
        stop: end the container once the archive is durable.
        tcp: "established", "close" or "refuse".
    """

    container: str
    output: Path | None = None
    name: CheckpointName | None = None
    replace: bool = False
    stop: bool = False
    tcp: str = "established"


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpResult:
    """A durable checkpoint, what it says of itself, and the phases of its making."""

    archive: Path
    archive_bytes: int
    manifest: Manifest
    phases: Phases

    @property
    def frozen_us(self) -> int:
        """From the pause until the archive was durable, with `stop`; else 0."""
        if self.manifest.options.source_running:
            return 0
        return self.phases.until_us("pause", "publish")
