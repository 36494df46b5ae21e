"""What a pass over a layer writes of one path: its kind, its attributes, its content or a change.

What may have been torn, or may change without a time that moves, is remembered, to be written again
by the next pass. This module knows single paths, opened by somebody else (O_PATH), and what was
written before of the same files; it knows no walk and no order.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crishim.errors import Unsupported
from crishim.kernel.writeback import stores_move_times, writes_ended
from crishim.layer.blocks import changed_extents, patched_digests
from crishim.layer.extents import Extents
from crishim.layer.members import keeps_xattr
from crishim.layer.write import LayerWriter, is_sparse

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from crishim.kernel.mounts import Overlay

SETTLED_NS = 100_000_000
"""File times come from a clock that may tick only every 10 ms, and direct I/O moves them before the
disk has the data: what was written so shortly before it is read may change without a new time."""

Mark = tuple[int, int]
"""Inode number and change time: a change of content or attributes always moves the latter."""

_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_DEVICES = (stat.S_IFCHR, stat.S_IFBLK)
_PATCH_BYTES_MIN = 8 << 20
"""Files from this size on are hashed as they are copied: later passes write only changed blocks."""


@dataclass(slots=True)
class _Links:
    """The names of one file: the first that was written, and how many were not yet."""

    first: bytes
    missing: int


class EntryWriter:
    """Writes the entries of one upper directory; one object serves all passes.

    Args: devices, device_allowed: see `LayerCapture`.
    Attributes: written: how many entries this pass has written.
    """

    def __init__(
        self,
        overlay: Overlay,
        *,
        devices: bool,
        device_allowed: Callable[[bool, int, int], bool],
    ) -> None:
        self.written = 0
        self._overlay = overlay
        self._left_out = {stat.S_IFSOCK} if devices else {stat.S_IFSOCK, *_DEVICES}
        self._device_allowed = device_allowed
        self._mapped: Collection[int] = ()
        self._since_ns = 0
        self._again: set[int] = set()
        self._links: dict[int, _Links] = {}
        self._digests: dict[int, bytes] = {}
        self._last = False
        self._fd = -1
        self._tar: LayerWriter
        self._begin = 0

    @property
    def copied_bytes(self) -> int:
        """How much the pass that goes on, or the last one, has written; any thread may ask."""
        return self._tar.offset - self._begin if self._fd >= 0 else 0

    def note_mappings(self, mapped: Collection[int], since_ns: int) -> None:
        """Say which files (inodes) are mapped as the next pass begins, and when that was."""
        self._mapped, self._since_ns = mapped, since_ns

    def begin(self, fd: int, offset: int, *, last: bool) -> set[int]:
        """Begin a pass; return the files (inodes) that are due, whether they changed or not.

        Args: fd, offset: the file that takes the tar, and from where on. last: nothing changes any
            more, and no pass follows.
        """
        self._tar, self._begin = LayerWriter(fd, offset), offset
        self._fd = fd
        self._last = last
        self.written = 0
        self._links.clear()
        due, self._again = self._again, set()
        return due

    def finish(self) -> int:
        """End the pass; return the offset behind its tar."""
        return self._tar.finish()

    def take_split(self) -> set[int]:
        """Return files of which some names were written and some not: all must be, as one.

        After it no file of this pass has a name.
        """
        split = {inode for inode, links in self._links.items() if links.missing}
        if split:
            self._links.clear()
        return split

    def removed(self, path: str) -> None:
        """Write that an entry is gone."""
        self.written += 1
        self._tar.removed(os.fsencode(path))

    def directory(self, fd: int, path: str) -> None:
        """Write a directory itself."""
        status = os.fstat(fd)
        xattrs = self._xattrs(fd, path)
        opaque = xattrs.get(self._overlay.xattr_prefix + "opaque") == b"y"
        self._again_if_recent(status)
        self.written += 1
        self._tar.directory(os.fsencode(path), status, _kept(xattrs), opaque=opaque)

    def other(self, fd: int, path: str, status: os.stat_result, *, patch: bool) -> None:
        """Write what is no directory.

        Args: patch: this path had the same inode in the pass before. Only then do all its links at
            the target stand for links of it here, or are written again.
        """
        kind = stat.S_IFMT(status.st_mode)
        if kind in self._left_out:
            return
        name = os.fsencode(path)
        self.written += 1
        if kind == stat.S_IFCHR and status.st_rdev == 0:
            self._tar.whiteout(name)
            return
        self._again_if_recent(status)
        if status.st_nlink > 1 and self._is_linked(name, status):
            return
        xattrs = self._xattrs(fd, path)
        if self._overlay.xattr_prefix + "whiteout" in xattrs:
            self._tar.whiteout(name)
        elif kind == stat.S_IFREG:
            self._file(fd, name, status, _kept(xattrs), patch=patch)
        elif kind == stat.S_IFLNK:
            target = os.fsencode(os.readlink("", dir_fd=fd))
            self._tar.symlink(name, status, _kept(xattrs), target)
        else:
            if kind in _DEVICES:
                self._refuse_device(path, status)
            self._tar.special(name, status, _kept(xattrs))

    def _is_linked(self, name: bytes, status: os.stat_result) -> bool:
        """Write a further name of a file that this pass has written; return whether it is one."""
        links = self._links.setdefault(status.st_ino, _Links(name, status.st_nlink))
        links.missing -= 1
        if links.first == name:
            return False
        self._tar.hard_link(name, links.first, status)
        return True

    def _refuse_device(self, path: str, status: os.stat_result) -> None:
        """Refuse a device node with which no restore would write the layer."""
        major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
        if not self._device_allowed(stat.S_ISCHR(status.st_mode), major, minor):
            raise Unsupported(
                f"the container's files hold the device node {path} ({major}:{minor}), which is "
                "none of its devices and would not be made again",
                hint="remove it, or give the device to the container",
            )

    def _file(
        self,
        path_fd: int,
        name: bytes,
        status: os.stat_result,
        xattrs: dict[bytes, bytes],
        *,
        patch: bool,
    ) -> None:
        """Write a regular file; with `patch` only what changed, if its old content is known."""
        fd = os.open(f"/proc/self/fd/{path_fd}", _READ)
        try:
            if not self._last:
                self._watch(fd, status)
            digests = self._digests.pop(status.st_ino, None)
            # A patch has no way to say where a hole has come to be.
            if patch and digests is not None and not is_sparse(status):
                extents = changed_extents(fd, status.st_size, digests)
                content = self._tar.patch(name, status, xattrs, fd, extents)
            else:
                digests, extents = b"", Extents([(0, status.st_size)])
                content = self._tar.file(name, status, xattrs, fd)
                if content.sparse or status.st_size < _PATCH_BYTES_MIN:
                    digests = None
            if not content.whole or mark_of(os.fstat(fd)) != mark_of(status):
                self._again.add(status.st_ino)
            if digests is not None and not self._last:
                # Of what was written, which may differ from what is there by now.
                self._tar.flush()
                self._digests[status.st_ino] = patched_digests(
                    digests, status.st_size, extents, self._fd, content.offset
                )
        finally:
            os.close(fd)

    def _watch(self, fd: int, status: os.stat_result) -> None:
        """See to it that what changes a file after `status` moves its time, or that it is due."""
        writes_ended(fd)
        recent = status.st_ctime_ns >= self._since_ns
        if status.st_ino in self._mapped or (recent and status.st_size >= _PATCH_BYTES_MIN):
            if not stores_move_times(fd):
                self._again.add(status.st_ino)
        elif recent:
            # To copy a small file again is quicker than to wait for a disk.
            self._again.add(status.st_ino)

    def _again_if_recent(self, status: os.stat_result) -> None:
        if status.st_ctime_ns > time.time_ns() - SETTLED_NS:
            self._again.add(status.st_ino)

    def _xattrs(self, fd: int, path: str) -> dict[str, bytes]:
        """Return all attributes; refuse those by which the overlay keeps data elsewhere."""
        proc_path = f"/proc/self/fd/{fd}"
        xattrs = {}
        for name in os.listxattr(proc_path):
            try:
                xattrs[name] = os.getxattr(proc_path, name)
            except OSError as error:
                if error.errno != errno.ENODATA:  # It was removed meanwhile.
                    raise
        for feature in ("metacopy", "redirect"):
            if self._overlay.xattr_prefix + feature in xattrs:
                raise Unsupported(
                    f"/{path} in the writable layer uses the overlay feature {feature!r}",
                    hint="mount overlays with metacopy=off,redirect_dir=off",
                )
        return xattrs


def mark_of(status: os.stat_result) -> Mark:
    """Return what tells this state of a file from any other."""
    return status.st_ino, status.st_ctime_ns


def _kept(xattrs: dict[str, bytes]) -> dict[bytes, bytes]:
    return {os.fsencode(name): value for name, value in xattrs.items() if keeps_xattr(name)}
