"""Bytes from one descriptor to another without passing through Python.

This module must never know names or formats.
Source: splice(2), copy_file_range(2), sendfile(2), pipe(7).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_F_SETPIPE_SZ = 1031
_PIPE_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 30
_PIECE_BYTES = 8 << 20
_NO_COPY_FILE_RANGE = (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)


def grow_pipe(fd: int) -> None:
    """Give a pipe a buffer of 1 MiB if the limit of the node allows it."""
    with contextlib.suppress(PermissionError):
        fcntl.fcntl(fd, _F_SETPIPE_SZ, _PIPE_BYTES)


def splice_some(pipe_fd: int, out_fd: int, offset: int) -> int | None:
    """Move what a pipe holds into a file.

    Returns: bytes moved, 0 at the pipe's end, None if the pipe is empty but still has a writer.
    Raises: OSError: the file refuses (ENOSPC).
    """
    try:
        return os.splice(
            pipe_fd,
            out_fd,
            _PIPE_BYTES,
            offset_dst=offset,
            flags=os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE,
        )
    except BlockingIOError:
        return None


def copy_range(
    in_fd: int,
    in_offset: int,
    out_fd: int,
    out_offset: int,
    size: int,
    *,
    between: Callable[[], None] | None = None,
) -> int:
    """Copy part of a file into another file.

    Args: between: called before each of the pieces in which it is copied then.
    Returns: bytes copied; fewer than `size` if the source ends before.
    Raises: OSError: as the file systems say.
    """
    done = 0
    copy = _copy_file_range
    most = _CHUNK_BYTES if between is None else _PIECE_BYTES
    while done < size:
        want = min(size - done, most)
        if between is not None:
            between()
        try:
            count = copy(in_fd, in_offset + done, out_fd, out_offset + done, want)
        except OSError as error:
            if copy is _send or error.errno not in _NO_COPY_FILE_RANGE:
                raise
            copy = _send
            continue
        if count == 0:
            break
        done += count
    return done


def _copy_file_range(in_fd: int, in_offset: int, out_fd: int, out_offset: int, size: int) -> int:
    return os.copy_file_range(in_fd, out_fd, size, in_offset, out_offset)


def _send(in_fd: int, in_offset: int, out_fd: int, out_offset: int, size: int) -> int:
    """Copy between file systems, where copy_file_range refuses; moves the output's position."""
    os.lseek(out_fd, out_offset, os.SEEK_SET)
    return os.sendfile(out_fd, in_fd, in_offset, size)
