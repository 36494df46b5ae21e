"""Whether files are there: yes, no, or an error; never "no" because nobody could look.

`Path.exists` says no to a path that it may not look at or that a dead disk does not answer for
(from Python 3.14 on whatever the error is). Who undoes, removes or starts something because a file
is absent needs to know which it was. `Path.glob` finds nothing in a directory that it may not look
into; from Python 3.13 on whatever the error is.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def is_there(path: Path) -> bool:
    """Return whether there is something at a path, a link that leads nowhere included.

    Raises: OSError: nobody can tell, for instance EACCES, EIO or ESTALE.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def entries(directory: Path) -> list[Path]:
    """Return what a directory holds, in the order of names; nothing where there is none.

    Raises: OSError: nobody can tell.
    """
    try:
        return [directory / name for name in sorted(os.listdir(directory))]
    except (FileNotFoundError, NotADirectoryError):
        return []


def same(one: Path, other: Path) -> bool:
    """Return whether two paths are certainly the same file: by a link or a second name, too."""
    if one == other:
        return True
    with contextlib.suppress(OSError):
        return os.path.samefile(one, other)
    return False
