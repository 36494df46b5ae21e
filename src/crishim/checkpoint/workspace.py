"""The working directory of one dump: what CRIU reads and writes, and notes for whoever clears up.

    images/      CRIU's images: FIFOs for the memory, small files for the rest
    criu.conf    CRIU's options that runc has no flag for
    directory    where the half archive lies
    freezer      the cgroup that the dump freezes
    lock         locked as long as the dump, or its guardian, is at work

The notes outlive a daemon that is killed; `recovery` reads them. This module knows no steps.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from crishim.checkpoint import logs
from crishim.checkpoint.flow import in_thread
from crishim.checkpoint.lanes import Lane
from crishim.errors import Busy
from crishim.kernel import atomic, cgroup, tree

if TYPE_CHECKING:
    import contextlib
    from pathlib import Path

_DIRECTORY = "directory"
_FREEZER = "freezer"


class Workspace:
    """The directory of a dump under way.

    Args: path: where it is, or will be. kept_logs: where the logs of a failure go.
    """

    def __init__(self, path: Path, kept_logs: Path) -> None:
        self.path = path
        self.kept_logs = kept_logs
        self.lock = -1

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
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = atomic.try_lock(self.path / "lock")
        if lock is None:
            raise Busy("an earlier dump of the container is still being undone")
        self.lock = lock
        undo.callback(os.close, lock)
        await in_thread(tree.remove_tree, self.images)
        self.images.mkdir(mode=0o700)
        self.criu_config.write_text(criu_config, encoding="utf-8")
        undo.push_async_callback(in_thread, tree.remove_tree, self.path, lane=Lane.PAUSE)

        def keep(kind: type[BaseException] | None, *_: object) -> None:
            if kind is not None:
                logs.keep(self.path, self.kept_logs)

        undo.push(keep)

    def unnamed_file(self, undo: contextlib.AsyncExitStack) -> int:
        """Return a file for what waits to go into the archive; `undo` closes it, and it is gone."""
        fd = os.open(self.path, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        undo.callback(os.close, fd)
        return fd

    def note_directory(self, directory: Path) -> None:
        """Write down where a half archive is going to be."""
        (self.path / _DIRECTORY).write_bytes(os.fsencode(directory))

    def note_freezer(self, freezer: Path) -> None:
        """Write down which cgroup is going to be frozen."""
        (self.path / _FREEZER).write_bytes(os.fsencode(freezer))


def thaw_abandoned(path: Path) -> None:
    """Thaw what a dump has frozen whose daemon and guardian are both gone.

    Args: path: the working directory of that dump.
    """
    if (freezer := _noted(path / _FREEZER)) is not None:
        cgroup.thaw(freezer)


def archive_directory(path: Path) -> Path | None:
    """Return where an abandoned dump was writing its archive, if it came that far."""
    return _noted(path / _DIRECTORY)


def _noted(note: Path) -> Path | None:
    try:
        return type(note)(os.fsdecode(note.read_bytes()))
    except FileNotFoundError:
        return None
