"""Whether a file is there: yes, no, or an error; never "no" because nobody could look.

`Path.exists` says no to a path that it may not look at or that a dead disk does not answer for
(from Python 3.14 on whatever the error is). Who undoes, removes or starts something because a file
is absent needs to know which it was.
"""

from __future__ import annotations

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
