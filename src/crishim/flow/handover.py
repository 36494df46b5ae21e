"""The meeting of a dump and of a restore on the same node that was asked for before it.

The restore makes everything ready that needs no archive and waits; the dump tells it when the
source's connections are held, and when its archive has appeared. Neither knows the other's steps.
Whichever fails leaves the other on its own: a restore without its dump fails too, a dump whose
restore is gone is an ordinary one.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from crishim.errors import Busy, Precondition

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from crishim.ids import ContainerId


class Handover:
    """What passes between one dump with `stop` and the restore that waits for it."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._held: asyncio.Future[None] = loop.create_future()
        self._archive: asyncio.Future[tuple[Path, Path | None]] = loop.create_future()
        self._over: asyncio.Future[bool] = loop.create_future()
        self.taken = False
        """A dump serves it, or has."""
        self.revived = False
        """The restore's processes run, whatever becomes of its caller; set by the restore."""
        self.image_directory: Path | None = None
        """Where the restore would like to find the page images as files; set once it is there."""

    def connections_are_held(self) -> None:
        """Say, as the dump, that nobody answers for the source's connections any more."""
        self._held.set_result(None)

    def archive_appeared(self, archive: Path, images: Path | None) -> None:
        """Say, as the dump, that the source will never go on: the point of no return.

        Args: images: `image_directory` if the page images are there, else None.
        """
        self._archive.set_result((archive, images))

    def dump_ended(self) -> None:
        """Say, as the dump, that nothing more will come of it."""
        for future in (self._held, self._archive):
            if not future.done():
                future.set_exception(
                    Precondition("the checkpoint to be restored has failed", hint="see its error")
                )
                future.exception()  # the restore may be gone, which is fine

    async def wait_over(self) -> bool:
        """Wait, as the dump, until the restore has come to its end; return whether it succeeded."""
        return await asyncio.shield(self._over)

    async def wait_held(self) -> None:
        """Wait, as the restore, for the dump's pause; raise Precondition if the dump fails."""
        await asyncio.shield(self._held)

    async def wait_archive(self) -> tuple[Path, Path | None]:
        """Wait, as the restore, for the archive; raise Precondition if the dump fails.

        Returns: the archive; `image_directory` if the page images are there.
        """
        return await asyncio.shield(self._archive)

    def restore_ended(self, *, succeeded: bool) -> None:
        """Say, as the restore, that it has come to its end."""
        self._over.set_result(succeeded)


class Handovers:
    """The restores that wait, by the container whose dump they wait for."""

    def __init__(self) -> None:
        self._waiting: dict[ContainerId, Handover] = {}

    @contextlib.contextmanager
    def expect(self, source: ContainerId) -> Iterator[Handover]:
        """Wait for the next dump of a container, as a restore; raise Busy if another one does."""
        if source in self._waiting:
            raise Busy(f"another restore waits for container {source[:13]}")
        handover = self._waiting[source] = Handover()
        try:
            yield handover
            handover.revived = True
        finally:
            del self._waiting[source]
            handover.restore_ended(succeeded=handover.revived)

    def take(self, source: ContainerId) -> Handover | None:
        """Return what a dump of this container has to serve, as the dump; None for nobody.

        It is the first dump's that asks: another one, while a restore undoes what the first has
        made fail, has nobody to serve.
        """
        handover = self._waiting.get(source)
        if handover is None or handover.taken:
            return None
        handover.taken = True
        return handover
