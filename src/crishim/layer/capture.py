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
import itertools
import os
import stat
import threading
import time
from array import array
from typing import TYPE_CHECKING

from crishim.archive import tar
from crishim.errors import DeadlineExceeded, Unsupported
from crishim.kernel.atomic import storage_errors
from crishim.kernel.mounts import fs_type_at
from crishim.layer.entries import SETTLED_NS, EntryWriter, Mark, mark_of
from crishim.layer.known import FILES_MAX, NONE, Entries
from crishim.layer.write import DEPTH_MAX, LayerWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from crishim.kernel.mounts import Overlay
    from crishim.kernel.procs import SharedMapping

_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_IN_MEMORY = ("tmpfs", "ramfs")


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
        self._every_file = False
        self._files_max = files_max
        self._files = 0
        self._known: dict[str, Entries] = {}
        self._seen: dict[str, Entries] = {}
        self._root: Mark | None = None
        self._due: set[int] = set()
        self._cancelled = threading.Event()
        self._entries = EntryWriter(overlay, devices=devices, device_allowed=device_allowed)

    @property
    def copied_bytes(self) -> int:
        """How much the pass that goes on, or the last one, has written; any thread may ask."""
        return self._entries.copied_bytes

    def first_pass(self, fd: int, offset: int) -> int:
        """Write the whole layer while the container runs.

        Args: fd, offset: the file that takes the tar, and from where on.
        Returns: the offset behind the tar.
        Raises: Unsupported: the overlay uses features that keep data elsewhere, or there is more
            than could be read back, or remembered. NoSpace.
            DeadlineExceeded: after `cancel`.
        """
        self._look_at_mappings()
        return self._pass(fd, offset, first=True)

    def catch_up(self, fd: int, offset: int) -> int | None:
        """Write what changed since the first pass, while the container still runs.

        Returns: the offset behind the tar, or None if nothing changed.
        Raises: as `first_pass`.
        """
        self._look_at_mappings()
        end = self._pass(fd, offset)
        return end if self._entries.written else None

    def last_pass(self, fd: int, offset: int) -> int | None:
        """Write what changed since the pass before; the container must be paused.

        Returns: the offset behind the tar, or None if nothing changed.
        Raises: as `first_pass`.
        """
        # There stores into a mapping never move a time.
        self._every_file = fs_type_at(self._overlay.upper) in _IN_MEMORY
        end = self._pass(fd, offset, last=True)
        return end if self._entries.written else None

    def names(self, inodes: Collection[int]) -> dict[int, str]:
        """Return a path in the layer for each of these inode numbers that the passes have found."""
        return {
            inode: _below(directory, name)
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
        since_ns = time.time_ns() - SETTLED_NS
        mapped: set[int] = set()
        for mapping in self._find_mapped():
            # Of a file that was copied up the table has the number in the layer below.
            mapped.add(mapping.inode)
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                file = self._overlay.upper / mapping.path.lstrip("/")
                mapped.add(os.lstat(file).st_ino)
        self._entries.note_mappings(mapped, since_ns)

    def _pass(self, fd: int, offset: int, *, first: bool = False, last: bool = False) -> int:
        """Write one pass; return the offset behind its tar."""
        self._due = self._entries.begin(fd, offset, last=last)
        with storage_errors("cannot capture the writable layer"):
            root_fd = os.open(self._overlay.upper, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                mark = mark_of(os.fstat(root_fd))
                if mark != self._root:
                    self._entries.directory(root_fd, "")
                self._walk_all(root_fd)
                if not first and (split := self._entries.take_split()):
                    self._due = split
                    self._walk_all(root_fd)
                self._root = mark
            finally:
                os.close(root_fd)
            return self._entries.finish()

    def _walk_all(self, root_fd: int) -> None:
        self._seen, self._files = {}, 0
        self._walk(os.open(".", _LIST, dir_fd=root_fd), "", 0, fresh=False)
        self._known = self._seen

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
                mark: Mark | None = None
                try:
                    status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
                except FileNotFoundError:
                    pass
                else:
                    mark = (status.st_ino, status.st_ctime_ns)
                    changed = mark != old or status.st_ino in due or every
                    if changed or stat.S_ISDIR(status.st_mode):
                        path = _below(directory, name)
                        mark = self._visit(dir_fd, path, depth, old=old, changed=changed)
                if mark is not None:
                    found.append(name)
                    inodes.append(mark[0])
                    ctimes_ns.append(mark[1])
                elif old is not None:
                    self._entries.removed(_below(directory, name))
        finally:
            os.close(dir_fd)
        self._seen[directory] = Entries(found, inodes, ctimes_ns)

    def _with_past(
        self, directory: str, names: Iterable[str], known: Entries
    ) -> Iterator[tuple[str, Mark | None]]:
        """Yield each name with its mark of the pass before; write what is gone since."""
        past = iter(known)
        old = next(past, None)
        for name in names:
            while old is not None and old[0] < name:
                self._entries.removed(_below(directory, old[0]))
                old = next(past, None)
            if old is not None and old[0] == name:
                yield name, old[1:]
                old = next(past, None)
            else:
                yield name, None
        while old is not None:
            self._entries.removed(_below(directory, old[0]))
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

    def _visit(
        self, dir_fd: int, path: str, depth: int, *, old: Mark | None, changed: bool
    ) -> Mark | None:
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
                self._entries.other(fd, path, status, patch=not fresh)
                return mark_of(status)
            if fresh and old is not None:
                self._entries.removed(path)
            if fresh or changed:
                self._entries.directory(fd, path)
            below_fd = os.open(".", _LIST, dir_fd=fd)
        finally:
            os.close(fd)
        # One descriptor for each directory on the way down, not two.
        self._walk(below_fd, path, depth + 1, fresh=fresh)
        return mark_of(status)


def _below(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name
