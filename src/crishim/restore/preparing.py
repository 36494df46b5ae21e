"""The archives from which restores are being prepared: no plan on disk names them yet."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from crishim.kernel import files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from crishim.ids import ContainerId


class Preparing:
    """Which archive is being read for which container; one object serves the daemon."""

    def __init__(self) -> None:
        self._archives: dict[ContainerId, Path] = {}

    @contextlib.contextmanager
    def of(self, container: ContainerId, archive: Path) -> Iterator[None]:
        """Name the archive of a container while the block runs."""
        self._archives[container] = archive
        try:
            yield
        finally:
            del self._archives[container]

    def container(self, archive: Path) -> ContainerId | None:
        """Return for whom an archive is being read; any thread may ask. Blocks."""
        there = tuple(self._archives.items())
        return next((container for container, path in there if files.same(path, archive)), None)
