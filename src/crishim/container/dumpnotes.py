"""What a dump has noted in its working directory, for whoever clears up after it.

The dump itself writes them (`dump.workspace`), but for a doubt; its guardian, which imports nothing
of ours, knows the same names. They are small files that count for one boot of the node.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from crishim.kernel import cgroup
from crishim.kernel.files import is_there

if TYPE_CHECKING:
    from pathlib import Path

DIRECTORY = "directory"
DOUBT = "doubt"
FREEZER = "freezer"
HALF = "half"


def note_doubt(path: Path) -> None:
    """Write down that an archive may not be durable, at once; from the thread that has found out.

    A later fsync succeeds whatever the failed one has lost, so a daemon that dies before it can
    change the record must not be forgotten. What ends the node's power ends its source too.
    Args: path: the working directory of its dump, which may be gone by now.
    """
    with contextlib.suppress(OSError):  # the record may have room where the disk is full
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        (path / DOUBT).touch()


def is_doubtful(path: Path) -> bool:
    """Return whether a dump's archive may not be durable; blocks.

    Raises: OSError: nobody can tell.
    """
    return is_there(path / DOUBT)


def is_half(path: Path) -> bool:
    """Return whether an abandoned dump's archive certainly never had its name; blocks.

    Its disk is not asked, which may be one that never answers.
    """
    try:
        (path / HALF).lstat()
    except OSError:
        return False
    return True


def thaw_abandoned(path: Path) -> None:
    """Thaw what a dump has frozen whose daemon and guardian are both gone.

    Args: path: the working directory of that dump.
    """
    if (freezer := _noted(path / FREEZER)) is not None:
        cgroup.thaw(freezer)


def archive_directory(path: Path) -> Path | None:
    """Return where an abandoned dump was writing its archive, if it came that far."""
    return _noted(path / DIRECTORY)


def _noted(note: Path) -> Path | None:
    try:
        return type(note)(os.fsdecode(note.read_bytes()))
    except FileNotFoundError:
        return None
