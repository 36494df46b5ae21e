"""The working directory of one dump: what CRIU reads and writes, and notes for whoever clears up.

    images/      CRIU's images: FIFOs for the memory, small files for the rest
    criu.conf    CRIU's options that runc has no flag for
    directory    where the half archive lies
    freezer      the cgroup that the dump freezes
    half         the archive certainly has no name; removed right before it gets it (with `stop`)
    doubt        an fsync of the archive has failed, and the record does not say so yet
    lock         locked as long as the dump, or its guardian, is at work

The notes (`container.dumpnotes`) outlive a daemon that is killed; `recovery` reads them. This
module knows no steps.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from crishim.aio.lanes import Lane
from crishim.aio.shield import in_thread, made_in_thread
from crishim.container import dumpnotes, logs
from crishim.errors import Busy
from crishim.kernel import atomic, tree
from crishim.kernel.atomic import storage_errors

if TYPE_CHECKING:
    import contextlib
    from pathlib import Path


class Workspace:
    """The directory of a dump under way.

    Args: path: where it is, or will be. kept_logs: where the logs of a failure go.
    """

    def __init__(self, path: Path, kept_logs: Path) -> None:
        self.path = path
        self.kept_logs = kept_logs
        self.lock = -1
        self.left = False
        """Its notes are needed still: whoever finds them thaws the container."""

    @property
    def images(self) -> Path:
        """CRIU's image directory."""
        return self.path / "images"

    @property
    def criu_config(self) -> Path:
        """CRIU's configuration file."""
        return self.path / "criu.conf"

    async def open(self, undo: contextlib.AsyncExitStack, *, criu_config: str) -> None:
        """Make the directory; a failure keeps the logs of it, nothing else.

        Raises: Busy: the guardian of an earlier daemon's dump is still at work in it.
        """
        self.lock = await made_in_thread(undo, self._locked, self._remove)

        async def keep(kind: type[BaseException] | None, *_: object) -> None:
            if kind is not None:
                await in_thread(logs.save_logs, self.path, self.kept_logs, lane=Lane.PAUSE)

        undo.push_async_exit(keep)
        await in_thread(self._fill, criu_config)

    def _locked(self) -> int:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = atomic.try_lock(self.path / "lock")
        if lock is None:
            raise Busy("an earlier dump of the container is still being undone")
        return lock

    def _remove(self, lock: int) -> None:
        try:
            if not self.left:
                tree.remove_tree(self.path)
        finally:
            os.close(lock)

    def _fill(self, criu_config: str) -> None:
        self.note_half()
        (self.path / dumpnotes.DOUBT).unlink(missing_ok=True)
        tree.remove_tree(self.images)
        self.images.mkdir(mode=0o700)
        # A path in it need not be UTF-8.
        self.criu_config.write_bytes(os.fsencode(criu_config))

    async def unnamed_file(self, undo: contextlib.AsyncExitStack) -> int:
        """Return a file for what waits to go into the archive; `undo` closes it, and it is gone."""
        flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
        # The last close frees its blocks, which takes its time.
        return await made_in_thread(
            undo, lambda: os.open(self.path, flags, 0o600), os.close, lane=Lane.PAUSE
        )

    def note_directory(self, directory: Path) -> None:
        """Write down where a half archive is going to be."""
        (self.path / dumpnotes.DIRECTORY).write_bytes(os.fsencode(directory))

    def note_freezer(self, freezer: Path) -> None:
        """Write down which cgroup is going to be frozen."""
        (self.path / dumpnotes.FREEZER).write_bytes(os.fsencode(freezer))

    def note_half(self) -> None:
        """Write down that the archive certainly has not got its name."""
        (self.path / dumpnotes.HALF).touch()

    def note_publishing(self) -> None:
        """Write down that the archive is about to get its name; before it does. Blocks.

        It need not outlast the node's power: what is frozen does not either.
        """
        with storage_errors("cannot note that the checkpoint is about to be complete"):
            (self.path / dumpnotes.HALF).unlink(missing_ok=True)
