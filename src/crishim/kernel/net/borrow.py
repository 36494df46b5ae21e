"""Look into sockets that another process has open, without that process taking part.

`pidfd_getfd` gives a further descriptor of the very same socket, running or frozen. What is asked
of it disturbs nobody; what is set on it is set for its owner. A socket is borrowed for as long as a
question takes: while we have it, its owner's close ends nothing.

Needs CAP_SYS_PTRACE. Source: pidfd_getfd(2), Linux 5.6.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from typing import TYPE_CHECKING

from crishim.kernel import procs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_PIDFD_GETFD = 438  # the same on every architecture

_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def borrowed(pid: int, fd: int) -> Iterator[socket.socket]:
    """Give the socket that a process has open as `fd`.

    Raises: OSError: the process is gone, has no such file, or it is no socket.
    """
    pidfd = os.pidfd_open(pid)
    try:
        own = _libc.syscall(_PIDFD_GETFD, pidfd, fd, 0)
        if own < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(pidfd)
    try:
        sock = socket.socket(fileno=own)
    except OSError:
        os.close(own)
        raise
    with sock:
        yield sock


def sockets(pids: Iterable[int]) -> dict[int, tuple[int, int]]:
    """Return process and descriptor of each socket that processes have open, by its inode.

    Of a socket that several have, it is the first one's.
    """
    found: dict[int, tuple[int, int]] = {}
    for pid in pids:
        for fd, inode in procs.socket_descriptors(pid):
            found.setdefault(inode, (pid, fd))
    return found
