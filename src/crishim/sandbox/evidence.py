"""What is known of the archive of a stopped container: told by files, never by a name alone.

All of it blocks as long as the archive's disk does, which may be one that never answers. This
module must never know what follows from it.
"""

from __future__ import annotations

import enum
import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from crishim.kernel import atomic
from crishim.sandbox.heldrecord import this_boot

if TYPE_CHECKING:
    from crishim.sandbox.heldrecord import HeldContainer


class NotDurable(OSError):
    """An fsync has failed: what it was to write may be lost, whatever a later one answers."""


class Standing(enum.Enum):
    """What is known of the archive that a record names.

    COMMITTED: it has its final name. HALF: it still has the name of a half archive.
    UNKNOWN: neither is there, or nobody can look; it may have been committed and moved since.
    """

    COMMITTED = "committed"
    HALF = "half"
    UNKNOWN = "unknown"


def standing(container: HeldContainer, *, boot_id: str) -> Standing:
    """Return what the names in the archive's directory prove.

    Args: boot_id: the boot in which the record was written; see `HeldContainer.device`.
    """
    archive = Path(container.archive)
    if _is_it(archive, container, boot_id):
        return Standing.COMMITTED
    try:
        names = os.listdir(archive.parent)
    except OSError:
        return Standing.UNKNOWN
    half = [name for name in names if name.startswith(f".{archive.name}.")]
    paths = [archive.parent / name for name in half if name.endswith(".partial")]
    if any(_is_it(path, container, boot_id) for path in paths):
        return Standing.HALF
    return Standing.UNKNOWN


def make_durable(container: HeldContainer, *, boot_id: str) -> None:
    """Make a committed archive durable under its name.

    Raises: NotDurable: the disk refused. OSError: the archive is not there, or nobody can look.
    """
    archive = Path(container.archive)
    fd = os.open(archive, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not _is_file(os.fstat(fd), container, boot_id):
            raise FileNotFoundError(errno.ENOENT, "another file has its name", container.archive)
        try:
            os.fsync(fd)
            atomic.fsync_dir(archive.parent)
        except OSError as error:
            raise NotDurable(error.errno, error.strerror, container.archive) from error
    finally:
        os.close(fd)


def _is_it(path: Path, container: HeldContainer, boot_id: str) -> bool:
    try:
        found = os.stat(path)
    except OSError:
        return False
    return _is_file(found, container, boot_id)


def _is_file(found: os.stat_result, container: HeldContainer, boot_id: str) -> bool:
    same_boot = container.device and boot_id == this_boot()
    return found.st_ino == container.inode and (not same_boot or found.st_dev == container.device)
