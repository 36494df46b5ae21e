"""Make sure that whatever changes a file from now on moves its times.

A change of content moves ctime, but not always at the moment when the content changes. One write(2)
moves it when it begins, and may go on for seconds. A store into a mapping moves it only when it
makes a clean page dirty: until the kernel has written that page back, further stores move nothing,
also those of a mapping that was there and is gone again. This module must never know what a file is
for.
Source: mm/filemap.c and fs/sync.c of Linux 6.12; sync_file_range(2); ext4, XFS and Btrfs update the
times in page_mkwrite and hold the inode's lock for a whole write(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import os

_WAIT_BEFORE_WRITE_WAIT_AFTER = 7
_libc = ctypes.CDLL(None, use_errno=True)


def writes_ended(fd: int) -> None:
    """Wait until the calls of write(2) on a file that had begun before are over.

    Looking for data takes the lock that they hold; it moves the position of `fd`.
    """
    with contextlib.suppress(OSError):  # ENXIO: there is no data.
        os.lseek(fd, 0, os.SEEK_DATA)


def stores_move_times(fd: int) -> bool:
    """Have dirty pages of a file written back, which protects them: the next store moves ctime.

    Only what is dirty costs anything; the disk's cache is not flushed, no journal committed.
    Returns: False if the file system failed, and nothing is known.
    """
    zero = ctypes.c_int64(0)
    return bool(_libc.sync_file_range(fd, zero, zero, _WAIT_BEFORE_WRITE_WAIT_AFTER) == 0)
