"""Durable files: write, fsync, rename, fsync of the directory; locks that end with their holder.

This module must never know what a file is for. A reader of a file written here sees the old or
the new content, also after a power cut.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import logging
import os
import re
import secrets
from typing import TYPE_CHECKING

from crishim.errors import NoSpace, NotFound, Precondition

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_log = logging.getLogger(__name__)
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{8}\.new")


@contextlib.contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Turn an OSError of the block into our error that says what could not be done.

    Args: what: begins the message, for instance "cannot write the archive".
    Raises: NoSpace: no blocks, inodes or quota left. NotFound: a directory is missing.
        Precondition: every other refusal of the file system.
    """
    try:
        yield
    except OSError as error:
        details = error.strerror or str(error)
        if error.filename is not None:
            details = f"{os.fsdecode(error.filename)}: {details}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise NoSpace(what, details=details, hint="free space on that file system") from error
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise NotFound(what, details=details) from error
        raise Precondition(what, details=details) from error


def fsync_dir(path: Path) -> None:
    """Make the entries of a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_file(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace a file durably; on failure the old content stays and no other file is left.

    Args: mode: permission bits of the new file, whatever the umask.
    Raises: OSError: as the file system says.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            write_all(fd, data)
            os.fchmod(fd, mode)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    fsync_dir(path.parent)


def rename_new(old: Path, new: Path) -> None:
    """Give a file another name in its directory, one that nothing has; never over something else.

    Where the file system cannot do it at once the file has both names for a moment.
    Raises: FileExistsError: the name is taken. OSError: as the file system says.
    Source: renameat2(2), RENAME_NOREPLACE; NFS and others answer EINVAL, and have link(2).
    """
    words = (_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), _RENAME_NOREPLACE)
    if _libc().renameat2(*words) == 0:
        return
    number = ctypes.get_errno()
    if number not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(number, os.strerror(number), str(new))
    os.link(old, new, follow_symlinks=False)
    with contextlib.suppress(OSError):
        os.unlink(old)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def sweep_unfinished(directory: Path) -> None:
    """Remove what `write_file` calls of a killed process have left; only while nobody writes."""
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in filter(_UNFINISHED.fullmatch, names):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(directory / name)


def write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of `data` at the file's position, however many calls that takes."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def pwrite_all(fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Write all of `data` at `offset`, leaving the file's position alone."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(fd, rest, offset)
        rest = rest[written:]
        offset += written


def try_lock(path: Path) -> int | None:
    """Lock a file for as long as the returned descriptor is open.

    The file is created 0600 if need be and never removed: a lock on a removed file excludes
    nobody.
    Returns: a descriptor that the caller closes to unlock; None if somebody else holds the lock.
    Source: flock(2).
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    if lock_fd(fd):
        return fd
    os.close(fd)
    return None


def lock_fd(fd: int) -> bool:
    """Lock an open file without waiting; False if another open file description has it locked."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
