"""CRIU's images as a directory to restore from: in place through EROFS, or unpacked.

mkfs.erofs writes an index of the tar (a few KB, milliseconds), and the kernel mounts the archive by
it: nothing is copied. That needs erofs-utils with --tar (1.8) and a kernel that mounts files
without a loop device (6.12); without either the images are unpacked. The directory outlives the
daemon: the restore may be started by a later one, which removes it too.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from typing import TYPE_CHECKING

from crishim.aio.lanes import Lane
from crishim.aio.shield import in_thread
from crishim.archive.writer import IMAGE_DIRECTORY
from crishim.errors import Busy, CrishimError, Precondition
from crishim.kernel import mounts, process
from crishim.kernel.tree import make_private_dir, remove_tree

if TYPE_CHECKING:
    from pathlib import Path

    from crishim.archive.reader import ArchiveReader

_log = logging.getLogger(__name__)
_MKFS_TIMEOUT_S = 60.0
_TREE = "tree"
UNPACK_BYTES = 8 << 20
"""So much is copied sooner than mkfs.erofs has started."""


class ImageDirectories:
    """Makes image directories; remembers whether this node can mount archives in place.

    Args: unpack_bytes: images of up to this size are unpacked.
    """

    def __init__(self, *, unpack_bytes: int = UNPACK_BYTES) -> None:
        self._in_place = True
        self._unpack_bytes = unpack_bytes

    async def make(self, archive: ArchiveReader, work_dir: Path) -> Path:
        """Give the images of an archive as a directory for `runc restore --image-path`.

        Args: work_dir: a directory of this restore's own, made if missing; it must go by
            `remove_images` and may then be deleted. The archive must stay as it is until then.
        Returns: `image_path(work_dir)`, which may be read-only.
        Raises: NotFound, Corrupt: as `ArchiveReader.images`. NoSpace.
        On cancel: `work_dir` needs `remove_images` all the same.
        """
        await in_thread(make_private_dir, work_dir)
        images = archive.images()
        if self._in_place and sum(image.size for image in images) > self._unpack_bytes:
            try:
                return await _mount_in_place(archive, work_dir)
            except (CrishimError, OSError) as error:
                self._in_place = not _cannot(error)
                _log.info("an archive is unpacked for its restore, not mounted: %s", error)
                await in_thread(remove_images, work_dir, lane=Lane.PAUSE)
        unpacked = await in_thread(make_image_path, work_dir)
        _log.debug("unpacking %d images", len(images))
        stop = _Stop()
        await in_thread(
            archive.extract_images, unpacked, stop.check, cancel=stop.set, lane=Lane.BULK
        )
        return unpacked


async def verify(archive: ArchiveReader, images: Path) -> None:
    """Compare every entry of an archive with its digest, the images where CRIU will read them.

    Raises: Corrupt: as `ArchiveReader.verify`. On cancel: ends soon.
    """
    stop = _Stop()
    await in_thread(
        lambda: archive.verify(lambda *_: stop.check(), images=images),
        cancel=stop.set,
        lane=Lane.BULK,
    )


class _Stop(threading.Event):
    """Ends work in a thread whose caller has gone, where that looks."""

    def check(self) -> None:
        """Raise Busy once it is set; nobody hears of it."""
        if self.is_set():
            raise Busy("the caller has gone")


def _cannot(error: CrishimError | OSError) -> bool:
    """Return whether a node that failed to mount an archive will fail with any other.

    A full disk passes; that there is no such program, or that the kernel does not know how, stays.
    """
    if isinstance(error, OSError):
        return error.errno in (errno.ENODEV, errno.EINVAL, errno.ENOTBLK, errno.EOPNOTSUPP)
    return isinstance(error, Precondition)


def image_path(work_dir: Path) -> Path:
    """Return where the images are, once they are made."""
    return work_dir / _TREE / IMAGE_DIRECTORY.rstrip("/")


def make_image_path(work_dir: Path) -> Path:
    """Make the directory for images as files, empty; `image_path(work_dir)` is returned."""
    path = image_path(work_dir)
    for directory in (work_dir, path.parent, path):
        make_private_dir(directory)
    return path


def warm(directory: Path) -> None:
    """Read images into memory, for a restore that begins meanwhile; blocks."""
    for path in directory.iterdir():
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(fd)


def remove_images(work_dir: Path) -> None:
    """Unmount and remove what `ImageDirectories.make` made, whichever way; nothing is fine too.

    Raises: Precondition: something else is mounted there. OSError: the mount is in use.
    """
    try:
        mounts.umount(work_dir / _TREE)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise
    remove_tree(work_dir / _TREE)
    (work_dir / "index.erofs").unlink(missing_ok=True)


async def _mount_in_place(archive: ArchiveReader, work_dir: Path) -> Path:
    index = work_dir / "index.erofs"
    target = work_dir / _TREE
    await process.check(
        ["mkfs.erofs", "--quiet", "--tar=i", str(index), str(archive.path.absolute())],
        timeout_s=_MKFS_TIMEOUT_S,
    )
    target.mkdir(mode=0o700)

    def mount() -> None:
        # By descriptor: a comma in the path could not be expressed, and it is the file we checked.
        device = f"device=/proc/self/fd/{archive.fd}"
        flags = mounts.MS_RDONLY | mounts.MS_NODEV | mounts.MS_NOSUID | mounts.MS_NOEXEC
        mounts.mount(str(index), target, fs_type="erofs", flags=flags, data=device)

    await in_thread(mount)
    return image_path(work_dir)
