"""Reading an archive that anybody may have written: index, manifest, digests, images.

The index is made by a scan of all headers before anything else is looked at. It admits regular
files and directories only, with plain names, inside the bounds of the file; nothing is ever
extracted by a name that was not admitted. Who may have written the archive is checked first,
because CRIU takes credentials and mounts from the images: a checkpoint is code.
All calls block; use them from a thread.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

from crishim.aio.lanes import give_way
from crishim.aio.quiet import between_pieces
from crishim.archive import manifest as manifests
from crishim.archive.digest import digest_range
from crishim.archive.index import Member, scan
from crishim.archive.writer import IMAGE_DIRECTORY
from crishim.errors import Corrupt, NotFound, Precondition, Unsupported
from crishim.kernel.atomic import storage_errors
from crishim.kernel.splice import copy_range

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_SMALL_BYTES_MAX = 64 << 20
_STEP_BYTES = 8 << 20
_THREADS = 2


class ArchiveReader:
    """An open archive and its index; close it, or use it as a `with` block."""

    def __init__(self, path: Path, fd: int, members: dict[str, Member]) -> None:
        self.path = path
        self.members = members
        self._fd = fd

    @classmethod
    def open(cls, path: Path, *, trusted_owner: bool = True) -> Self:
        """Open an archive and read its index.

        Args: trusted_owner: refuse what anybody but root (or ourselves) may have written or
            replaced; an inspection that restores nothing may do without.
        Raises: NotFound: no such file. Precondition: a refusal. Unsupported: compressed.
            Corrupt: not an archive, truncated, or with entries that no archive of ours has.
        """
        with storage_errors(f"cannot open the checkpoint {path}"):
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise Precondition(f"{path} is not a regular file")
            if trusted_owner:
                _check_owner(path, status)
            with _about(path):
                return cls(path, fd, scan(fd, status.st_size))
        except BaseException:
            os.close(fd)
            raise

    @property
    def fd(self) -> int:
        """The open file; it stays the reader's."""
        return self._fd

    @property
    def archive_bytes(self) -> int:
        """Size of the whole file."""
        return os.fstat(self._fd).st_size

    def read(self, name: str) -> bytes:
        """Return a small entry.

        Raises: NotFound: there is none. Corrupt: it is larger than 64 MiB.
        """
        member = self.members.get(name)
        if member is None:
            raise NotFound(f"{self.path} has no entry {name}")
        if member.size > _SMALL_BYTES_MAX:
            raise Corrupt(f"{self.path}: the entry {name} is too large")
        data = os.pread(self._fd, member.size, member.offset)
        if len(data) != member.size:
            raise Corrupt(f"{self.path} is truncated")
        return data

    def manifest(self) -> manifests.Manifest:
        """Return the manifest, which agrees with the index in names and sizes.

        Raises: Precondition: made by other software, or by a newer version. Corrupt: damaged.
        """
        if manifests.NAME not in self.members:
            raise Precondition(f"{self.path} has no manifest", hint="it was not written by crishim")
        if self.members[manifests.NAME].size > manifests.BYTES_MAX:
            raise Corrupt(f"the manifest of {self.path} is too large")
        with _about(self.path):
            manifest = manifests.decode(self.read(manifests.NAME))
        listed = {entry.name: entry.size for entry in manifest.entries}
        found = {name: member.size for name, member in self.members.items()}
        del found[manifests.NAME]
        if len(listed) != len(manifest.entries) or listed != found:
            wrong = sorted(dict(listed.items() ^ found.items()))[:3]
            raise Corrupt(f"{self.path} and its manifest do not agree", details=", ".join(wrong))
        return manifest

    def verify(
        self,
        progress: Callable[[int, int], None] | None = None,
        *,
        images: Path | None = None,
    ) -> None:
        """Compare every entry with its digest in the manifest.

        Args:
            progress: told bytes done and bytes in all, from threads, one call at a time.
            images: where CRIU will read its images. They are compared there, and not in the
                archive: it is what counts, and the restore then finds them in memory.
        Raises: Corrupt: names the first entry that differs; and as `manifest`.
        """
        entries = self.manifest().entries
        total = sum(entry.size for entry in entries)
        done = 0
        lock = threading.Lock()

        def step(count: int) -> None:
            nonlocal done
            with lock:
                done += count
                if progress is not None:
                    progress(done, total)

        def check(entry: manifests.Entry) -> None:
            if self._digest(self.members[entry.name], images, step) != entry.digest:
                raise Corrupt(f"{self.path}: the entry {entry.name} is damaged")

        with ThreadPoolExecutor(_THREADS, "archive-verify", initializer=give_way) as executor:
            for _ in executor.map(check, entries):
                pass

    def _digest(self, member: Member, images: Path | None, step: Callable[[int], None]) -> str:
        if images is None or not member.name.startswith(IMAGE_DIRECTORY):
            return digest_range(self._fd, member.offset, member.size, step)
        with storage_errors(f"cannot read the images of {self.path}"):
            name = images / member.name.removeprefix(IMAGE_DIRECTORY)
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return digest_range(fd, 0, member.size, step)
        finally:
            os.close(fd)

    def extract_images(self, directory: Path, step: Callable[[], None] = lambda: None) -> int:
        """Write CRIU's images into a directory, 0600 each; return their total size.

        What is there already is taken for a copy of the same entry.
        Args: step: called now and then; what it raises ends the work.
        Raises: NotFound: the archive has none. NoSpace: the disk is full; the caller removes the
            directory.
        """
        images = self.images()
        with storage_errors(f"cannot unpack {self.path}"):
            dir_fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                there = {IMAGE_DIRECTORY + name for name in os.listdir(directory)}
                for member in images:
                    if member.name not in there:
                        self._extract(member, dir_fd, step)
            finally:
                os.close(dir_fd)
        return sum(member.size for member in images)

    def images(self) -> list[Member]:
        """Return the entries below `checkpoint/`, which has no directories.

        Raises: NotFound: there are none.
        """
        found = [m for m in self.members.values() if m.name.startswith(IMAGE_DIRECTORY)]
        if not found:
            raise NotFound(f"{self.path} holds no images of CRIU")
        for member in found:
            if "/" in member.name.removeprefix(IMAGE_DIRECTORY):
                raise Corrupt(f"{self.path} has images in a nested directory")
        return found

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _extract(self, member: Member, dir_fd: int, step: Callable[[], None]) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        name = member.name.removeprefix(IMAGE_DIRECTORY)
        fd = os.open(name, flags, 0o600, dir_fd=dir_fd)
        try:
            for done in range(0, member.size, _STEP_BYTES):
                step()
                between_pieces()
                size = min(member.size - done, _STEP_BYTES)
                if copy_range(self._fd, member.offset + done, fd, done, size) != size:
                    raise Corrupt(f"{self.path} is truncated")
        finally:
            os.close(fd)


@contextlib.contextmanager
def _about(path: Path) -> Iterator[None]:
    """Name the archive in errors of those who only know its bytes."""
    try:
        yield
    except (Corrupt, Precondition, Unsupported) as error:
        raise type(error)(
            f"{path}: {error.brief}", details=error.details, hint=error.hint
        ) from error


def _check_owner(path: Path, status: os.stat_result) -> None:
    cure = "a checkpoint runs as root on this node: keep it where only root can write"
    trusted = (0, os.geteuid())
    if status.st_uid not in trusted or status.st_mode & 0o022:
        raise Precondition(
            f"{path} may have been written by somebody else than root",
            hint=f"{cure} (chown root, chmod 0600)",
        )
    for parent in path.absolute().resolve().parents:
        above = os.stat(parent)
        shared = above.st_mode & 0o022 and not above.st_mode & stat.S_ISVTX
        if above.st_uid not in trusted or shared:
            raise Precondition(f"{parent} lets others than root replace {path.name}", hint=cure)
