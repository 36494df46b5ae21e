"""Removal of directory trees that can never reach into a mount or through a link.

A work directory of CRIU may hold live mounts of cgroups or of a root file system after a crash;
deleting into one destroys other people's data. So: mounts are looked for first, and each directory
is entered by openat2 with a ban on crossing mounts and on symbolic links.
Source: openat2(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
from typing import TYPE_CHECKING

from crishim.errors import Precondition
from crishim.kernel.mounts import mounts_below, read_mounts

if TYPE_CHECKING:
    from pathlib import Path

_NR_OPENAT2 = 437  # the same on all architectures
_RESOLVE_NO_XDEV = 0x01
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_HOW = struct.pack("QQQ", _DIRECTORY, 0, _RESOLVE_NO_XDEV | _RESOLVE_NO_SYMLINKS | _RESOLVE_BENEATH)
_libc = ctypes.CDLL(None, use_errno=True)


def remove_tree(path: Path) -> None:
    """Remove a directory and all below it; nothing to do if it is missing.

    Raises:
        Precondition: there is a mount on it or below it (nothing was removed), or one appeared
            meanwhile (what lies in it was not touched); or it is not a directory.
        OSError: as the file system says.
    """
    try:
        parent_fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        real = os.path.join(os.path.realpath(path.parent, strict=True), path.name)
        if found := mounts_below(read_mounts(), real):
            raise Precondition(
                f"{path} is not removed: something is mounted in it",
                details=", ".join(mount.mount_point for mount in found[:5]),
                hint="unmount it first",
            )
        with contextlib.suppress(FileNotFoundError):
            remove_tree_at(parent_fd, path.name)
    finally:
        os.close(parent_fd)


def remove_tree_at(dir_fd: int, name: str) -> None:
    """Remove the directory `name` of an open directory and all below it.

    Raises: Precondition: a mount or something else than a directory is in the way.
        FileNotFoundError: there is no such directory.
    """
    stack = [(dir_fd, name, open_dir_at(dir_fd, name))]
    try:
        while stack:
            parent_fd, own_name, fd = stack[-1]
            below = _remove_files(fd)
            # What others remove meanwhile is gone, but the rest is not for that reason.
            with contextlib.suppress(FileNotFoundError):
                if below is not None:
                    stack.append((fd, below, open_dir_at(fd, below)))
                    continue
                os.rmdir(own_name, dir_fd=parent_fd)
            if below is None:
                os.close(fd)
                stack.pop()
    finally:
        for _, _, fd in stack:
            os.close(fd)


def remove_content(dir_fd: int) -> None:
    """Remove all that is in an open directory.

    Raises: as `remove_tree_at`.
    """
    while (below := _remove_files(dir_fd)) is not None:
        remove_tree_at(dir_fd, below)


def open_dir_at(dir_fd: int, name: str) -> int:
    """Open a directory of an open directory, on the same mount and not through a link.

    Args: name: one component.
    Returns: a descriptor that the caller closes.
    Raises: Precondition: it is a mount point, a link or no directory. FileNotFoundError: missing.
    """
    how = ctypes.create_string_buffer(_HOW, len(_HOW))
    fd = _libc.syscall(
        ctypes.c_long(_NR_OPENAT2),
        ctypes.c_int(dir_fd),
        ctypes.c_char_p(os.fsencode(name)),
        how,
        ctypes.c_size_t(len(_HOW)),
    )
    if fd >= 0:
        return int(fd)
    number = ctypes.get_errno()
    if number in (errno.EXDEV, errno.ELOOP, errno.ENOTDIR):
        what = "a mount point" if number == errno.EXDEV else "not a directory"
        raise Precondition(f"{name!r} is {what}")
    raise OSError(number, os.strerror(number), name)


def _remove_files(fd: int) -> str | None:
    """Unlink all that is no directory; return a directory left over, or None."""
    directory = None
    with os.scandir(fd) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                directory = entry.name
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(entry.name, dir_fd=fd)
    return directory


def make_private_dir(path: Path) -> None:
    """Make a directory of 0700 that only its owner, who must be us, can enter; parents likewise.

    Raises: Precondition: something else, or a directory of somebody else, is there.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        fd = os.open(path, _DIRECTORY)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        raise Precondition(f"{path} is not a directory of ours", hint="remove it") from error
    try:
        if os.fstat(fd).st_uid != os.geteuid():
            raise Precondition(f"{path} is not a directory of ours", hint="remove it")
        os.fchmod(fd, 0o700)
    finally:
        os.close(fd)
