"""Own a UNIX socket path: one instance, the right modes, no window, nobody else's file removed.

gRPC removes whatever socket lies at the path it binds, and again at its shutdown whatever lies
there by then. So it gets a name that nobody else uses, and the socket is moved to its public name
when it is ready; only this module removes the public name, and only while it is ours.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from crishim.containerd.channel import METADATA_BYTES, WINDOW_BYTES, unix_target
from crishim.errors import Busy, Precondition

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_log = logging.getLogger(__name__)
_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", METADATA_BYTES),
    # How often a client may ping is between it and nobody: hanging up on a kubelet helps no one.
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
    ("grpc.so_reuseport", 0),
)
_PATH_BYTES = 107  # sun_path of unix(7), less its final zero


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A socket in its public place, and which file it is."""

    path: Path
    device: int
    inode: int

    def remove(self) -> None:
        """Remove the socket, unless somebody put another file in its place."""
        with contextlib.suppress(FileNotFoundError):
            found = self.path.lstat()
            if (found.st_dev, found.st_ino) == (self.device, self.inode):
                self.path.unlink()
            else:
                _log.warning("%s is not our socket any more and stays", self.path)


def make_directory(directory: Path) -> None:
    """Make a directory for sockets and locks, 0700; one that exists must be safe already.

    Raises: Precondition: it cannot be made, is no directory, or others may write in it.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.lstat()
    except OSError as error:
        raise Precondition(f"cannot make the directory {directory}", details=str(error)) from error
    if not stat.S_ISDIR(found.st_mode):
        raise Precondition(f"{directory} is not a directory")
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise Precondition(
            f"{directory} can be changed by other users, who could put a socket of theirs there",
            hint=f"give it to the user of crishim, mode 0700; it has {found.st_mode & 0o7777:04o}",
        )


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold the lock `file` inside the block. The file stays: removing it would free two locks.

    Raises:
        Busy: another process holds it; the text names its pid.
        Precondition: the file cannot be made.
    """
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise Precondition(f"cannot open the lock {file}", details=str(error)) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise Busy(f"another crishim is running here (pid {owner}, lock {file})") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def new_server(relay: grpc.GenericRpcHandler) -> grpc.aio.Server:
    """Make a server whose `relay` takes every method that no registered service takes."""
    return grpc.aio.server(handlers=[relay], options=_OPTIONS)


def bind(server: grpc.aio.Server, path: Path) -> Listener:
    """Make `server` listen at `path`, mode 0600. The caller holds the lock of its directory.

    A socket that nobody listens on any more is replaced. Callers that come before the server is
    started wait.
    Raises:
        Busy: another program listens there.
        Precondition: something else lies there, or the path is too long.
    """
    fresh = path.with_name(f".{path.name}.new")
    if len(os.fsencode(fresh)) > _PATH_BYTES:
        raise Precondition(
            f"{path} is too long for a socket", hint=f"at most {_PATH_BYTES - 5} bytes"
        )
    _check_replaceable(path)
    old_mask = os.umask(0o177)
    try:
        server.add_insecure_port(unix_target(fresh))
    except RuntimeError as error:
        raise Precondition(f"cannot listen at {path}", details=str(error)) from error
    finally:
        os.umask(old_mask)
    found = fresh.lstat()
    fresh.rename(path)
    return Listener(path=path, device=found.st_dev, inode=found.st_ino)


def _check_replaceable(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise Precondition(f"{path} is not a socket and is left alone", hint="remove it first")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        failure = probe.connect_ex(str(path))
    if failure in (errno.ECONNREFUSED, errno.ENOENT):
        return
    raise Busy(f"another program listens at {path}")
