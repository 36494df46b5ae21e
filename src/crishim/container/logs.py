"""Carry the container's CRI log over a checkpoint: each line once, none lost.

A line travels from the process's pipe through containerd's shim and containerd into the log file.
While the container is frozen nothing new enters the pipe, so once the pipes are empty and the file
has stopped growing, its size is the end of the log that belongs to the checkpoint.

Source: containerd internal/cri/io (logger.go, helpers.go): the FIFO in the container's io directory
is read line by line and written to the log file at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
import stat
import struct
import termios
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crishim.errors import CrishimError
from crishim.kernel import files, tree
from crishim.kernel.splice import copy_range

if TYPE_CHECKING:
    from pathlib import Path

    from crishim.archive.reader import ArchiveReader
    from crishim.archive.writer import ArchiveWriter

_log = logging.getLogger(__name__)
MEMBER = "container.log"

_ROTATED = ".%Y%m%d-%H%M%S"
"""How the kubelet names a log that it has rotated, so that it removes ours in time too."""
_POLL_S = 0.001
_QUIET_POLLS = 3
_LIMIT_S = 1.0
_KEPT_FOLDERS = 50
_OURS = ("dump-", "restore-")


@dataclass(frozen=True, slots=True)
class Logged:
    """What a container had logged by its pause: an open file, whatever its name is by now."""

    fd: int
    size_bytes: int


async def settled(log: Path, *, pid: int, undo: contextlib.AsyncExitStack) -> Logged | None:
    """Wait until what a frozen process wrote has reached the log; return the log and its size.

    Args:
        pid: first process of the container; its standard output and error are looked at.
        undo: closes the file.
    Returns: None when there is no log file. After a second the size as it is: a runtime that does
        not read (log on a full disk) must not keep the container frozen.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + _LIMIT_S
    fd, size, quiet = -1, -1, 0
    while quiet < _QUIET_POLLS and loop.time() < end:
        if (current := _current(log, fd)) >= 0:
            fd = current
            undo.callback(os.close, fd)
        now = os.fstat(fd).st_size if fd >= 0 else 0
        quiet = quiet + 1 if now == size and not _waiting_bytes(pid) else 0
        size = now
        await asyncio.sleep(_POLL_S)
    return Logged(fd, size) if fd >= 0 else None


def _current(log: Path, fd: int) -> int:
    """Open the log if it is another file than `fd`, because the kubelet has rotated it; else -1."""
    try:
        if fd >= 0 and os.path.samestat(os.stat(log, follow_symlinks=False), os.fstat(fd)):
            return -1
        return os.open(log, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1


def _waiting_bytes(pid: int) -> int:
    """Return how many bytes wait in the pipes that are standard output and error."""
    waiting = 0
    for number in (1, 2):
        try:
            fd = os.open(f"/proc/{pid}/fd/{number}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if stat.S_ISFIFO(os.fstat(fd).st_mode):
                answer = fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4)
                waiting += struct.unpack("i", answer)[0]
        finally:
            os.close(fd)
    return waiting


def add(writer: ArchiveWriter, log: Logged) -> None:
    """Append to an archive what a container had logged; blocks."""
    offset = writer.begin_member(MEMBER)
    copied = copy_range(log.fd, 0, writer.fd, offset, log.size_bytes)
    writer.end_member(offset + copied)


def carry(archive: ArchiveReader, log: Path) -> None:
    """Let a new container's log begin with what the archive's container had logged.

    A log that is there already, such as one of the old container under the same path, is moved
    aside: what it says beyond the checkpoint, the new container is going to say again.
    """
    member = archive.members.get(MEMBER)
    if member is None:
        return
    log.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        log.rename(log.with_name(log.name + time.strftime(_ROTATED, time.localtime())))
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(log, flags, 0o640)
    try:
        copy_range(archive.fd, member.offset, fd, 0, member.size)
    finally:
        os.close(fd)


def save_logs(work: Path, folder: Path) -> None:
    """Copy the logs of a failed dump or restore to where an operator finds them.

    Older ones of the same container go, and of all containers' the oldest: a kubelet makes a new
    container for each attempt, for ever. A failure is logged only: the caller has an error to tell.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in _logs(folder):
            old.unlink()
        for path in _logs(work):
            shutil.copyfile(path, folder / path.name)
        os.utime(folder)
        folders = [path for path in folder.parent.iterdir() if path.name.startswith(_OURS)]
        folders.sort(key=lambda path: path.lstat().st_mtime_ns)
    except OSError as error:
        _log.warning("the logs in %s are not kept: %s", work, error)
        return
    for old in folders[:-_KEPT_FOLDERS]:
        try:
            tree.remove_tree(old)
        except (CrishimError, OSError) as error:
            _log.warning("the old logs in %s stay: %s", old, error)


def _logs(directory: Path) -> list[Path]:
    return [path for path in files.entries(directory) if path.suffix == ".log"]
