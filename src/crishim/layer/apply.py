"""Write a captured layer into the upper directory of a container that does not run yet.

No overlay is mounted: whiteouts become the 0/0 devices and opaque directories the attribute that
the kernel will read when it mounts. Nothing in the layer can reach outside: each directory is
entered from the one above by openat2 without links or mounts, files are made anew and never
opened by a name that was there. Shared memory is written beside containers that run: whoever they
are, they exchange names for links while we write. So owner, mode, attributes and times are given to
a descriptor that was looked at after it was opened, never to a name.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

from crishim.aio.quiet import between_pieces
from crishim.archive import tar
from crishim.errors import Corrupt, Precondition
from crishim.kernel.atomic import storage_errors
from crishim.kernel.splice import copy_range
from crishim.kernel.tree import open_dir_at, remove_tree_at
from crishim.layer.members import MEMBERS, keeps_xattr
from crishim.layer.read import OPAQUE, PATCHED, REMOVED_ENTRY, WHITEOUT, LayerEntry, read_layer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from crishim.archive.reader import ArchiveReader
    from crishim.kernel.mounts import Overlay

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_KINDS = {
    tar.SYMLINK: stat.S_IFLNK,
    tar.FIFO: stat.S_IFIFO,
    tar.CHARACTER: stat.S_IFCHR,
    tar.BLOCK: stat.S_IFBLK,
}


def apply_layer(
    archive: ArchiveReader, overlay: Overlay, *, device_allowed: Callable[[bool, int, int], bool]
) -> None:
    """Write the layer of an archive into an overlay's upper directory, over what is there.

    Args: device_allowed: asked whether a device may be made: is it a character device, its major,
        its minor number.
    Raises: Corrupt: a hostile or damaged layer. Precondition: a device that is not allowed.
        NoSpace. After an error the upper directory holds a part of the layer; the caller gives
        the snapshot up, or applies again.
    """
    apply_members(archive, overlay, MEMBERS, device_allowed=device_allowed)


def apply_members(
    archive: ArchiveReader,
    overlay: Overlay,
    members: Sequence[str],
    *,
    device_allowed: Callable[[bool, int, int], bool],
    keep: Callable[[str], bool] = lambda _: False,
) -> None:
    """Write captured directories into one, in this order; members that are missing are none.

    Args: keep: asked for the name of what is there already whether it stays as it is; what is new
        below a directory goes into it.
    Raises: as `apply_layer`.
    """
    with storage_errors("cannot write the container's layer"):
        upper_fd = os.open(overlay.upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, upper_fd)
            tree = _Tree(upper_fd)
            stack.callback(tree.close)
            applier = _Applier(
                archive.fd, tree, overlay.xattr_prefix, device_allowed=device_allowed, keep=keep
            )
            for name in members:
                if member := archive.members.get(name):
                    for entry in read_layer(archive.fd, member.offset, member.size):
                        applier.apply(entry)
            applier.set_directory_times()


class _Tree:
    """Open directories from the root down to the last one asked for."""

    def __init__(self, root_fd: int) -> None:
        self._root_fd = root_fd
        self._names: list[bytes] = []
        self._fds: list[int] = []

    def open(self, path: tuple[bytes, ...]) -> int:
        """Return a directory's descriptor, valid until the next call."""
        common = 0
        while common < len(self._names) and self._names[: common + 1] == list(path[: common + 1]):
            common += 1
        self._cut(common)
        for name in path[common:]:
            try:
                fd = open_dir_at(self._fds[-1] if self._fds else self._root_fd, os.fsdecode(name))
            except (FileNotFoundError, Precondition) as error:
                raise Corrupt(
                    f"the writable layer has an entry without its directory: {path}"
                ) from error
            self._names.append(name)
            self._fds.append(fd)
        return self._fds[-1] if self._fds else self._root_fd

    def forget(self, path: tuple[bytes, ...]) -> None:
        """Close a directory that is about to be removed."""
        if tuple(self._names[: len(path)]) == path:
            self._cut(len(path) - 1)

    def close(self) -> None:
        self._cut(0)

    def _cut(self, depth: int) -> None:
        while len(self._fds) > depth:
            self._names.pop()
            os.close(self._fds.pop())


class _Applier:
    def __init__(
        self,
        archive_fd: int,
        tree: _Tree,
        xattr_prefix: str,
        *,
        device_allowed: Callable[[bool, int, int], bool],
        keep: Callable[[str], bool],
    ) -> None:
        self._archive_fd = archive_fd
        self._tree = tree
        self._xattr_prefix = xattr_prefix
        self._device_allowed = device_allowed
        self._keep = keep
        self._directory_times: dict[bytes, int] = {}
        self._left_out: set[tuple[bytes, ...]] = set()

    def apply(self, entry: LayerEntry) -> None:
        """Write one entry over whatever is there, but for what is to be kept."""
        if any(entry.path[: len(path)] == path for path in self._left_out):
            return
        if entry.kind == OPAQUE:
            os.setxattr(self._tree.open(entry.path), self._xattr_prefix + "opaque", b"y")
            return
        if entry.kind == tar.DIRECTORY:
            self._directory(entry)
            return
        parent_fd = self._tree.open(entry.path[:-1])
        name = os.fsdecode(entry.path[-1])
        if self._keep(name) and _mode(parent_fd, name):
            return
        try:
            self._make(entry, parent_fd, name)
        except FileExistsError:
            # Somebody was quicker by a moment.
            if not self._keep(name):
                raise

    def _make(self, entry: LayerEntry, parent_fd: int, name: str) -> None:
        """Write what is no directory."""
        if entry.kind == tar.HARD_LINK:
            self._hard_link(entry, name)
            return
        if entry.kind == PATCHED:
            self._patch(entry, parent_fd, name)
            return
        self._remove(parent_fd, entry.path)
        if entry.kind == REMOVED_ENTRY:
            return
        if entry.kind == WHITEOUT:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=parent_fd)
        elif entry.kind == tar.REGULAR:
            self._file(entry, parent_fd, name)
        else:
            self._special(entry, parent_fd, name)

    def set_directory_times(self) -> None:
        """Set the times of all directories, once nothing is written into them any more."""
        for path, mtime_ns in self._directory_times.items():
            with contextlib.suppress(Corrupt):
                parts = tuple(path.split(b"/")) if path else ()
                os.utime(self._tree.open(parts), ns=(mtime_ns, mtime_ns))

    def _directory(self, entry: LayerEntry) -> None:
        if not self._made(entry.path):
            return
        fd = self._tree.open(entry.path)
        os.fchown(fd, entry.uid, entry.gid)
        os.fchmod(fd, entry.mode)
        _set_xattrs(fd, entry)
        self._directory_times[b"/".join(entry.path)] = entry.mtime_ns

    def _made(self, path: tuple[bytes, ...]) -> bool:
        """Make a directory; return whether it is ours. What is kept is only gone through."""
        if not path:
            return not self._keep("")
        parent_fd, name = self._tree.open(path[:-1]), os.fsdecode(path[-1])
        if self._keep(name) and (mode := _mode(parent_fd, name)):
            if not stat.S_ISDIR(mode):
                self._left_out.add(path)  # nothing can lie below it
            return False
        if not _is_directory(parent_fd, name):
            self._remove(parent_fd, path)
            os.mkdir(name, 0o700, dir_fd=parent_fd)
        return True

    def _file(self, entry: LayerEntry, parent_fd: int, name: str) -> None:
        self._fill(entry, os.open(name, _NEW_FILE, 0o600, dir_fd=parent_fd))

    def _patch(self, entry: LayerEntry, parent_fd: int, name: str) -> None:
        """Change a file that the first member made."""
        try:
            path_fd = os.open(name, _PATH, dir_fd=parent_fd)
        except FileNotFoundError as error:
            raise Corrupt(f"the writable layer changes a file that is missing: {name!r}") from error
        try:
            if not stat.S_ISREG(os.fstat(path_fd).st_mode):
                raise Corrupt(f"the writable layer changes a file that is none: {name!r}")
            fd = os.open(f"/proc/self/fd/{path_fd}", os.O_WRONLY | os.O_CLOEXEC)
        finally:
            os.close(path_fd)
        self._fill(entry, fd)

    def _fill(self, entry: LayerEntry, fd: int) -> None:
        """Write content and metadata of a regular file, and close it."""
        try:
            os.ftruncate(fd, entry.size)
            data = entry.data
            for offset, size in entry.extents:
                copied = copy_range(
                    self._archive_fd, data, fd, offset, size, between=between_pieces
                )
                if copied != size:
                    raise Corrupt("the writable layer in the archive is truncated")
                data += size
            os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, entry.mode)
            _set_xattrs(fd, entry)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    def _special(self, entry: LayerEntry, parent_fd: int, name: str) -> None:
        """Make a symbolic link, a FIFO or a device."""
        if entry.kind == tar.SYMLINK:
            os.symlink(entry.link, os.fsencode(name), dir_fd=parent_fd)
        elif entry.kind == tar.FIFO:
            os.mkfifo(name, 0o600, dir_fd=parent_fd)
        else:
            self._device(entry, parent_fd, name)
        fd = os.open(name, _PATH, dir_fd=parent_fd)
        try:
            if not _is_fresh(os.fstat(fd), entry):
                raise Precondition(
                    f"{name!r} was exchanged for something else while it was restored",
                    hint="look at what the other containers of the pod do in /dev/shm",
                )
            _set_metadata(fd, entry)
        finally:
            os.close(fd)

    def _device(self, entry: LayerEntry, parent_fd: int, name: str) -> None:
        major, minor = entry.device
        if not self._device_allowed(entry.kind == tar.CHARACTER, major, minor):
            path = "/".join(os.fsdecode(part) for part in entry.path)
            raise Precondition(
                f"the container's layer holds the device node /{path} ({major}:{minor})",
                hint="allow the device in the pod that the checkpoint is restored into",
            )
        mode = _KINDS[entry.kind] | 0o600
        os.mknod(name, mode, os.makedev(major, minor), dir_fd=parent_fd)

    def _hard_link(self, entry: LayerEntry, name: str) -> None:
        if not entry.target:
            raise Corrupt("a hard link of the writable layer has no target")
        target_fd = os.dup(self._tree.open(entry.target[:-1]))
        try:
            parent_fd = self._tree.open(entry.path[:-1])
            if entry.target == entry.path:
                raise Corrupt(f"a hard link of the writable layer names itself: {name!r}")
            self._remove(parent_fd, entry.path)
            os.link(
                os.fsdecode(entry.target[-1]),
                name,
                src_dir_fd=target_fd,
                dst_dir_fd=parent_fd,
                follow_symlinks=False,
            )
        except (FileNotFoundError, PermissionError) as error:
            raise Corrupt(f"a hard link of the writable layer has no file: {name!r}") from error
        finally:
            os.close(target_fd)

    def _remove(self, parent_fd: int, path: tuple[bytes, ...]) -> None:
        name = os.fsdecode(path[-1])
        if self._keep(name):
            return
        with contextlib.suppress(FileNotFoundError):
            if _is_directory(parent_fd, name):
                self._tree.forget(path)
                remove_tree_at(parent_fd, name)
            else:
                os.unlink(name, dir_fd=parent_fd)


def _is_directory(parent_fd: int, name: str) -> bool:
    return stat.S_ISDIR(_mode(parent_fd, name))


def _mode(parent_fd: int, name: str) -> int:
    """Return the mode of an entry, 0 if there is none."""
    with contextlib.suppress(FileNotFoundError):
        return os.stat(name, dir_fd=parent_fd, follow_symlinks=False).st_mode
    return 0


def _is_fresh(status: os.stat_result, entry: LayerEntry) -> bool:
    """Tell whether this is what we have just made for an entry that is no file and no directory."""
    ours = status.st_uid == os.geteuid() and status.st_nlink == 1
    return ours and stat.S_IFMT(status.st_mode) == _KINDS[entry.kind]


def _set_metadata(path_fd: int, entry: LayerEntry) -> None:
    """Give what an O_PATH descriptor stands for, a symbolic link itself too, all but content.

    The link in /proc leads to exactly that file, whatever is at its name by now.
    """
    path = f"/proc/self/fd/{path_fd}"
    os.chown(path, entry.uid, entry.gid)
    if entry.kind != tar.SYMLINK:
        os.chmod(path, entry.mode)
    for key, value in entry.xattrs.items():
        if keeps_xattr(key):
            os.setxattr(path, key, value)
    os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns))


def _set_xattrs(fd: int, entry: LayerEntry) -> None:
    """Give a file or directory the entry's attributes and no others.

    Comes after owner and mode, which would drop or change some of them.
    """
    for key in os.listxattr(fd):
        if keeps_xattr(key) and key not in entry.xattrs:
            os.removexattr(fd, key)
    for key, value in entry.xattrs.items():
        if keeps_xattr(key):
            os.setxattr(fd, key, value)
