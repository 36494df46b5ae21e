"""Writing an archive: one plain tar, sequentially, under a temporary name until it is whole.

The file is locked as long as it is being written, so that `sweep_partials` can tell a dead
writer's from a live one's; how it gets its final name stands in `appearance`. Memory pages and
layers are written first and their headers last, when their sizes are known. This module must never
know containers, CRIU or what an entry means. All calls block; use them from a thread.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from crishim.archive import manifest as manifests
from crishim.archive import tar
from crishim.archive.appearance import Appearance
from crishim.archive.digest import digest_bytes, digest_range
from crishim.kernel.atomic import fsync_dir, lock_fd, pwrite_all, storage_errors
from crishim.kernel.splice import copy_range

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

IMAGE_DIRECTORY = "checkpoint/"
_ALIGNMENT_BYTES = 4096
_PARTIAL = re.compile(r"\..+\.[0-9a-f]{8}\.partial")
_ZEROS = bytes(1 << 20)


@dataclass(slots=True)
class _Entry:
    name: str
    offset: int
    size: int
    digest: str = ""


class ArchiveWriter:
    """An archive in the making; leaving its `with` block before `publish` removes it."""

    def __init__(self, target: Path, file: Appearance) -> None:
        self._target = target
        self._file = file
        self._end = 0
        self._before_member = 0
        self._prepared = 0
        self._entries: list[_Entry] = []
        self._member: _Entry | None = None

    @classmethod
    def create(cls, target: Path, *, replace: Callable[[], None] | None = None) -> Self:
        """Begin an archive that is to appear at `target`.

        Args: replace: see `Appearance`; by default nothing is ever replaced.
        Raises: AlreadyExists: something is there. NotFound: the directory is missing. NoSpace,
            Precondition: as the disk says. What `replace` raises.
        """
        file = Appearance(target, replace=replace)
        with storage_errors(f"cannot write a checkpoint to {target}"):
            file.create()
        writer = cls(target, file)
        try:
            writer._write_header(
                tar.Header(name=IMAGE_DIRECTORY.encode(), kind=tar.DIRECTORY, mode=0o700)
            )
        except BaseException:
            writer.abort()
            raise
        return writer

    @property
    def target(self) -> Path:
        """Where the archive is to appear."""
        return self._target

    @property
    def partial(self) -> Path:
        """Where the file lies until `publish`."""
        return self._file.partial

    @property
    def fd(self) -> int:
        """The file, for whoever fills an open member by offset; it stays the writer's."""
        return self._file.fd

    def prepare(self, expected_bytes: int) -> None:
        """Write zeros where the next entries will lie, so that writing them is quicker.

        The file's blocks and its pages in memory then exist already. May be repeated after more
        entries: only what is missing is written.
        Raises: NoSpace: the disk cannot hold that much.
        """
        start, end = max(self._end, self._prepared), self._end + expected_bytes
        with self._errors():
            os.posix_fallocate(self.fd, start, max(end - start, 1))
            for offset in range(start, end, len(_ZEROS)):
                pwrite_all(self.fd, _ZEROS[: end - offset], offset)
        self._prepared = max(end, self._prepared)

    def begin_member(self, name: str) -> int:
        """Open an entry of unknown size, its data on a page boundary.

        Returns: the offset in the file where the caller writes the data, one after the other.
        """
        assert self._member is None, "one open member at a time"
        self._before_member = self._end
        at_least = self._end + 3 * tar.BLOCK_BYTES
        offset = -(-at_least // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
        fill_bytes = offset - self._end - 2 * tar.BLOCK_BYTES
        with self._errors():
            self._append(tar.build_pax({}, fill_bytes=fill_bytes))
        self._member = _Entry(name, offset, 0)
        return offset

    def drop_member(self) -> None:
        """Forget the open entry: the next one takes its place."""
        assert self._member is not None
        self._end, self._member = self._before_member, None

    def end_member(self, end: int) -> None:
        """Close the open entry; its data ends at this offset in the file."""
        member = self._member
        assert member is not None
        size = end - member.offset
        with self._errors():
            self._write_header(tar.Header(name=member.name.encode(), size=size))
            padding = bytes(tar.padded(size) - size)
            pwrite_all(self.fd, padding, end)
        self._end = member.offset + tar.padded(size)
        member.size = size
        self._entries.append(member)
        self._member = None

    def add_bytes(self, name: str, data: bytes) -> None:
        """Append a small entry."""
        with self._errors():
            self._write_header(tar.Header(name=name.encode(), size=len(data)))
            self._entries.append(_Entry(name, self._end, len(data), digest_bytes(data)))
            self._append(data + bytes(tar.padded(len(data)) - len(data)))

    def add_file(self, name: str, fd: int) -> int:
        """Append the content of an open file as it is now; return its size."""
        size = os.fstat(fd).st_size
        offset = self.begin_member(name)
        with self._errors():
            copied = copy_range(fd, 0, self.fd, offset, size)
        self.end_member(offset + copied)
        return copied

    def add_images(self, directory: Path) -> int:
        """Append the regular files of CRIU's image directory; return their total size."""
        total = 0
        for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
            if not entry.is_file(follow_symlinks=False):
                continue
            fd = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                name = IMAGE_DIRECTORY + entry.name
                if os.fstat(fd).st_size < len(_ZEROS):
                    data = os.pread(fd, len(_ZEROS), 0)
                    self.add_bytes(name, data)
                    total += len(data)
                else:
                    total += self.add_file(name, fd)
            finally:
                os.close(fd)
        return total

    def seal(self) -> None:
        """Make what has been written durable and compute the digests, both at the same time."""
        with self._errors(), ThreadPoolExecutor(1, "archive-fsync") as executor:
            syncing = executor.submit(os.fsync, self.fd)
            self.digest()
            syncing.result()

    def digest(self, known: Mapping[str, str] | None = None) -> None:
        """Compute the digests of the entries so far, but for those that were computed before.

        Args: known: digests of entries, by name, that somebody else has computed.
        """
        for entry in self._entries:
            entry.digest = entry.digest or (known or {}).get(entry.name, "")
            entry.digest = entry.digest or digest_range(self.fd, entry.offset, entry.size)

    def commit(self, manifest: manifests.Manifest) -> int:
        """Do all that is left: seal, complete, publish, make durable.

        Returns: the archive's size in bytes.
        Raises: as those do; `abort` is still needed.
        """
        self.seal()
        self.complete(manifest)
        self.sync()
        self.publish()
        return self.make_durable()

    def complete(self, manifest: manifests.Manifest) -> None:
        """Write the manifest, given the list of entries; nothing can be added any more.

        Raises: NoSpace, Precondition: as the disk says.
        """
        entries = tuple(
            manifests.Entry(name=entry.name, size=entry.size, digest=entry.digest)
            for entry in self._entries
        )
        data = manifests.encode(dataclasses.replace(manifest, entries=entries))
        self.add_bytes(manifests.NAME, data)
        with self._errors():
            self._append(tar.END)
            os.ftruncate(self.fd, self._end)

    def sync(self) -> None:
        """Make what has been written durable.

        An archive that appears without it needs it right after, by `make_durable`. Until then only
        a reader on this node may count on it, which a power cut ends too; a torn archive that one
        leaves is told by its manifest and digests.
        """
        with self._errors():
            os.fsync(self.fd)

    def publish(self) -> None:
        """Let the complete archive appear under its final name; `make_durable` must follow.

        Raises: AlreadyExists, NoSpace, NotFound, Precondition: `appeared` tells what is so.
        """
        with self._errors():
            self._file.appear()

    def appeared(self) -> bool | None:
        """Return whether the archive has its final name; None where nobody can tell."""
        return self._file.appeared()

    def make_durable(self) -> int:
        """Make an archive that has appeared durable under its name; return its size in bytes."""
        with self._errors():
            os.fsync(self.fd)
            fsync_dir(self._target.parent)
        return self._end

    def withdraw(self) -> None:
        """Remove an archive that has appeared and that nobody was told of.

        One that has taken another's place stays, or nothing of the two would be left.
        """
        with self._errors():
            self._file.withdraw()

    def abort(self) -> None:
        """Close the archive and remove it, unless it has appeared or may have. May be repeated."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def _write_header(self, header: tar.Header) -> None:
        self._append(tar.build_header(header))

    def _append(self, data: bytes) -> None:
        pwrite_all(self.fd, data, self._end)
        self._end += len(data)

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return storage_errors(f"cannot write the checkpoint {self._target}")


def sweep_partials(directory: Path) -> list[str]:
    """Remove unfinished archives whose writers are dead; return their names."""
    swept = []
    for name in os.listdir(directory):
        if not _PARTIAL.fullmatch(name):
            continue
        path = directory / name
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if stat.S_ISREG(os.fstat(fd).st_mode) and lock_fd(fd):
                    os.unlink(path)
                    swept.append(name)
            finally:
                os.close(fd)
    return swept
