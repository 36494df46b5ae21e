"""Capture of a container's writable layer from its overlay's upper directory, in three passes.

The first copies everything while the container runs, which may take long; the second catches up
with what changed meanwhile, so that the last, during the pause, finds little. Whatever may have
been torn is remembered and written again by the next pass. The directory is hostile: its owner
swaps files for links and devices while we walk, so each entry is opened as a path first (O_PATH),
looked at, and only then read. All calls block; use them from a thread.

A later pass finds a change by the file's ctime, so ctime must move with every change after the
copy. Where it may not (`kernel/writeback`), the kernel is made to see to it before the copy. That
costs a write-back, and few files need it: whoever had made a page of a mapping dirty before a pass
began, and still had the mapping in that pass, had it when the pass began; and whoever did it
since has moved the file's ctime since. So it is done for files that are mapped when the pass
begins, and for those changed since.
Source: kernel Documentation/filesystems/overlayfs.rst; OCI image-spec layer.md (whiteouts).
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
import threading
import time
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crishim.archive import tar
from crishim.errors import DeadlineExceeded, Unsupported
from crishim.kernel.atomic import storage_errors
from crishim.kernel.mounts import fs_type_at
from crishim.kernel.writeback import stores_move_times, writes_ended
from crishim.layer.blocks import changed_extents, patched_digests
from crishim.layer.extents import Extents
from crishim.layer.known import FILES_MAX, NONE, Entries
from crishim.layer.write import DEPTH_MAX, LayerWriter, is_sparse

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from crishim.kernel.mounts import Overlay
    from crishim.kernel.procs import SharedMapping

MEMBERS = ("rootfs-diff.tar", "rootfs-diff.2.tar", "rootfs-diff.3.tar")
"""Where an archive keeps what each pass has found, in the order in which they are applied."""

_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_SETTLED_NS = 100_000_000
"""File times come from a clock that may tick only every 10 ms, and direct I/O moves them before the
disk has the data: what was written so shortly before it is read may change without a new time."""

_IN_MEMORY = ("tmpfs", "ramfs")
_DEVICES = (stat.S_IFCHR, stat.S_IFBLK)

_PATCH_BYTES_MIN = 8 << 20
"""Files from this size on are hashed as they are copied: later passes write only changed blocks."""

_Mark = tuple[int, int]
"""Inode number and change time: a change of content or attributes always moves the latter."""


@dataclass(slots=True)
class _Links:
    """The names of one file: the first that was written, and how many were not yet."""

    first: bytes
    missing: int


def keeps_xattr(name: str) -> bool:
    """Tell whether an attribute travels: not the overlay's own, nor a label of the pod or host."""
    if name.startswith(("trusted.overlay.", "user.overlay.")):
        return False
    return name.startswith(("user.", "trusted.", "system.posix_acl_")) or (
        name == "security.capability"
    )


class LayerCapture:
    """The capture of one upper directory; one object serves all passes.

    Args: mapped: asked when a pass begins beside running processes: what do they have mapped?
        devices: whether device nodes and whiteouts are part of it.
        device_allowed: asked whether a restore would make a device node: is it a character device,
            its major, its minor number.
        files_max: with more entries it is refused.
    """

    def __init__(
        self,
        overlay: Overlay,
        *,
        mapped: Callable[[], Collection[SharedMapping]] = tuple,
        devices: bool = True,
        device_allowed: Callable[[bool, int, int], bool] = lambda *_: True,
        files_max: int = FILES_MAX,
    ) -> None:
        self._overlay = overlay
        self._find_mapped = mapped
        self._mapped: set[int] = set()
        self._since_ns = 0
        self._every_file = False
        self._left_out = {stat.S_IFSOCK} if devices else {stat.S_IFSOCK, *_DEVICES}
        self._device_allowed = device_allowed
        self._files_max = files_max
        self._files = 0
        self._known: dict[str, Entries] = {}
        self._seen: dict[str, Entries] = {}
        self._root: _Mark | None = None
        self._due: set[int] = set()
        self._redo: set[int] = set()
        self._cancelled = threading.Event()
        self._entries = 0
        self._links: dict[int, _Links] = {}
        self._digests: dict[int, bytes] = {}
        self._first = self._last = False
        self._fd = -1
        self._writer: LayerWriter
        self._begin = 0

    @property
    def copied_bytes(self) -> int:
        """How much the pass that goes on, or the last one, has written; any thread may ask."""
        return self._writer.offset - self._begin if self._fd >= 0 else 0

    def first_pass(self, fd: int, offset: int) -> int:
        """Write the whole layer while the container runs.

        Args: fd, offset: the file that takes the tar, and from where on.
        Returns: the offset behind the tar.
        Raises: Unsupported: the overlay uses features that keep data elsewhere, or there is more
            than could be read back, or remembered. NoSpace.
            DeadlineExceeded: after `cancel`.
        """
        self._first = True
        self._look_at_mappings()
        end, _ = self._pass(fd, offset)
        self._first = False
        return end

    def catch_up(self, fd: int, offset: int) -> int | None:
        """Write what changed since the first pass, while the container still runs.

        Returns: the offset behind the tar, or None if nothing changed.
        Raises: as `first_pass`.
        """
        self._look_at_mappings()
        end, entries = self._pass(fd, offset)
        return end if entries else None

    def last_pass(self, fd: int, offset: int) -> int | None:
        """Write what changed since the pass before; the container must be paused.

        Returns: the offset behind the tar, or None if nothing changed.
        Raises: as `first_pass`.
        """
        self._last = True
        # There stores into a mapping never move a time.
        self._every_file = fs_type_at(self._overlay.upper) in _IN_MEMORY
        end, entries = self._pass(fd, offset)
        return end if entries else None

    def names(self, inodes: Collection[int]) -> dict[int, str]:
        """Return a path in the layer for each of these inode numbers that the passes have found."""
        return {
            inode: f"{directory}/{name}" if directory else name
            for directory, known in self._known.items()
            for name, inode, _ in known
            if inode in inodes
        }

    def add_links(self, fd: int, end: int | None, links: Mapping[str, int]) -> int | None:
        """Add further names of files, by their inode, to what the last pass has written.

        Args: fd, end: what the last pass was given, and has returned.
        Returns: the new end, or None if there is still nothing.
        Raises: Unsupported: a file has no other name.
        """
        names = self.names({*links.values()})
        # The last pass may have met some of them.
        missing = {path: inode for path, inode in links.items() if names.get(inode) != path}
        if not missing:
            return end
        writer = LayerWriter(fd, 0 if end is None else end - len(tar.END))
        for path, inode in missing.items():
            if inode not in names:
                raise Unsupported(f"an open file has no name but {path} in {self._overlay.upper}")
            status = os.lstat(self._overlay.upper / names[inode])
            writer.hard_link(os.fsencode(path), os.fsencode(names[inode]), status)
        return writer.finish()

    def cancel(self) -> None:
        """Make a running pass end soon with an error; safe from any thread."""
        self._cancelled.set()

    def _look_at_mappings(self) -> None:
        self._since_ns = time.time_ns() - _SETTLED_NS
        self._mapped.clear()
        for mapping in self._find_mapped():
            # Of a file that was copied up the table has the number in the layer below.
            self._mapped.add(mapping.inode)
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                file = self._overlay.upper / mapping.path.lstrip("/")
                self._mapped.add(os.lstat(file).st_ino)

    def _pass(self, fd: int, offset: int) -> tuple[int, int]:
        self._writer, self._begin = LayerWriter(fd, offset), offset
        self._fd = fd
        self._entries = 0
        self._links.clear()
        self._due, self._redo = self._redo, set()
        with storage_errors("cannot capture the writable layer"):
            root_fd = os.open(self._overlay.upper, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                mark = _mark(os.fstat(root_fd))
                if mark != self._root:
                    self._write_directory(root_fd, "")
                self._walk_all(root_fd)
                if not self._first and (split := self._split_inodes()):
                    self._due = split
                    self._links.clear()
                    self._walk_all(root_fd)
                self._root = mark
            finally:
                os.close(root_fd)
            return self._writer.finish(), self._entries

    def _walk_all(self, root_fd: int) -> None:
        self._seen, self._files = {}, 0
        self._walk(os.open(".", _LIST, dir_fd=root_fd), "", 0, fresh=False)
        self._known = self._seen

    def _split_inodes(self) -> set[int]:
        """Return files of which some names were written and some not: all must be, as one."""
        return {inode for inode, links in self._links.items() if links.missing}

    def _walk(self, dir_fd: int, directory: str, depth: int, *, fresh: bool) -> None:
        """Write what changed in a directory, all of it if `fresh`; close its descriptor."""
        known = self._known.pop(directory, NONE)
        found: list[str] = []
        inodes, ctimes_ns = array("Q"), array("q")
        due, every = self._due, self._every_file
        try:
            if depth > DEPTH_MAX:
                raise Unsupported(f"there are more than {DEPTH_MAX} directories inside each other")
            names = self._listed(dir_fd)
            for name, old in self._with_past(directory, names, NONE if fresh else known):
                # This loop runs once per file during the pause: it is kept free of calls.
                mark: _Mark | None = None
                try:
                    status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
                except FileNotFoundError:
                    pass
                else:
                    mark = (status.st_ino, status.st_ctime_ns)
                    changed = mark != old or status.st_ino in due or every
                    if changed or stat.S_ISDIR(status.st_mode):
                        path = f"{directory}/{name}" if directory else name
                        mark = self._visit(dir_fd, path, depth, old=old, changed=changed)
                if mark is not None:
                    found.append(name)
                    inodes.append(mark[0])
                    ctimes_ns.append(mark[1])
                elif old is not None:
                    self._removed(directory, name)
        finally:
            os.close(dir_fd)
        self._seen[directory] = Entries(found, inodes, ctimes_ns)

    def _with_past(
        self, directory: str, names: Iterable[str], known: Entries
    ) -> Iterator[tuple[str, _Mark | None]]:
        """Yield each name with its mark of the pass before; write what is gone since."""
        past = iter(known)
        old = next(past, None)
        for name in names:
            while old is not None and old[0] < name:
                self._removed(directory, old[0])
                old = next(past, None)
            if old is not None and old[0] == name:
                yield name, old[1:]
                old = next(past, None)
            else:
                yield name, None
        while old is not None:
            self._removed(directory, old[0])
            old = next(past, None)

    def _listed(self, dir_fd: int) -> list[str]:
        """Return the sorted names in a directory, unless there are too many in all."""
        left = self._files_max - self._files
        with os.scandir(dir_fd) as entries:
            names = sorted(entry.name for entry in itertools.islice(entries, left + 1))
        if len(names) > left:
            raise Unsupported(
                f"{self._overlay.upper} holds more than {self._files_max} files",
                hint="keep them on a volume, or raise layer_files_max of [checkpoint]",
            )
        self._files += len(names)
        return names

    def _removed(self, directory: str, name: str) -> None:
        """Write that an entry is gone."""
        self._entries += 1
        self._writer.removed(os.fsencode(f"{directory}/{name}" if directory else name))

    def _visit(
        self, dir_fd: int, path: str, depth: int, *, old: _Mark | None, changed: bool
    ) -> _Mark | None:
        """Write one entry if it changed, and what is below it.

        Returns: its mark; None if it is gone.
        """
        if self._cancelled.is_set():
            raise DeadlineExceeded("the capture of the writable layer was cancelled")
        try:
            fd = os.open(os.path.basename(path), _PATH, dir_fd=dir_fd)
        except FileNotFoundError:
            return None
        try:
            status = os.fstat(fd)
            fresh = old is None or old[0] != status.st_ino
            if not stat.S_ISDIR(status.st_mode):
                self._write(fd, path, status, patch=not fresh)
                return _mark(status)
            if fresh and old is not None:
                self._entries += 1
                self._writer.removed(os.fsencode(path))
            if fresh or changed:
                self._write_directory(fd, path)
            below_fd = os.open(".", _LIST, dir_fd=fd)
        finally:
            os.close(fd)
        # One descriptor for each directory on the way down, not two.
        self._walk(below_fd, path, depth + 1, fresh=fresh)
        return _mark(status)

    def _write_directory(self, fd: int, path: str) -> None:
        status = os.fstat(fd)
        xattrs = self._xattrs(fd, path)
        opaque = xattrs.get(self._overlay.xattr_prefix + "opaque") == b"y"
        self._redo_if_recent(status)
        self._entries += 1
        self._writer.directory(os.fsencode(path), status, _kept(xattrs), opaque=opaque)

    def _write(self, fd: int, path: str, status: os.stat_result, *, patch: bool) -> None:
        """Write what is no directory.

        Args: patch: this path had the same inode in the pass before. Only then do all its links at
            the target stand for links of it here, or are written again.
        """
        kind = stat.S_IFMT(status.st_mode)
        if kind in self._left_out:
            return
        name = os.fsencode(path)
        self._entries += 1
        if kind == stat.S_IFCHR and status.st_rdev == 0:
            self._writer.whiteout(name)
            return
        self._redo_if_recent(status)
        if status.st_nlink > 1:
            links = self._links.setdefault(status.st_ino, _Links(name, status.st_nlink))
            links.missing -= 1
            if links.first != name:
                self._writer.hard_link(name, links.first, status)
                return
        xattrs = self._xattrs(fd, path)
        if self._overlay.xattr_prefix + "whiteout" in xattrs:
            self._writer.whiteout(name)
        elif kind == stat.S_IFREG:
            self._write_file(fd, name, status, _kept(xattrs), patch=patch)
        elif kind == stat.S_IFLNK:
            target = os.fsencode(os.readlink("", dir_fd=fd))
            self._writer.symlink(name, status, _kept(xattrs), target)
        else:
            if kind in _DEVICES:
                self._refuse_device(path, status)
            self._writer.special(name, status, _kept(xattrs))

    def _refuse_device(self, path: str, status: os.stat_result) -> None:
        """Refuse a device node with which no restore would write the layer."""
        major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
        if not self._device_allowed(stat.S_ISCHR(status.st_mode), major, minor):
            raise Unsupported(
                f"the container's files hold the device node {path} ({major}:{minor}), which is "
                "none of its devices and would not be made again",
                hint="remove it, or give the device to the container",
            )

    def _write_file(
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
                content = self._writer.patch(name, status, xattrs, fd, extents)
            else:
                digests, extents = b"", Extents([(0, status.st_size)])
                content = self._writer.file(name, status, xattrs, fd)
                if content.sparse or status.st_size < _PATCH_BYTES_MIN:
                    digests = None
            if not content.whole or _mark(os.fstat(fd)) != _mark(status):
                self._redo.add(status.st_ino)
            if digests is not None and not self._last:
                # Of what was written, which may differ from what is there by now.
                self._writer.flush()
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
                self._redo.add(status.st_ino)
        elif recent:
            # To copy a small file again is quicker than to wait for a disk.
            self._redo.add(status.st_ino)

    def _redo_if_recent(self, status: os.stat_result) -> None:
        if status.st_ctime_ns > time.time_ns() - _SETTLED_NS:
            self._redo.add(status.st_ino)

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


def _mark(status: os.stat_result) -> _Mark:
    return status.st_ino, status.st_ctime_ns


def _kept(xattrs: dict[str, bytes]) -> dict[bytes, bytes]:
    return {os.fsencode(name): value for name, value in xattrs.items() if keeps_xattr(name)}
