"""Reading an archive that anybody may have written: index, manifest, digests, images.

The index is made by a scan of all headers before anything else is looked at. It admits regular
files and directories only, with plain names, inside the bounds of the file; nothing is ever
extracted by a name that was not admitted. Who may have written the archive is checked first,
because CRIU takes credentials and mounts from the images: a checkpoint is code.
All calls block; use them from a thread.
"""

from __future__ import annotations

import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from crishim.checkpoint import manifest as manifests
from crishim.checkpoint import tarformat
from crishim.checkpoint.archive import IMAGE_DIRECTORY
from crishim.checkpoint.digest import digest_range
from crishim.errors import Corrupt, NotFound, Precondition, Unsupported
from crishim.kernel.atomic import storage_errors
from crishim.kernel.splice import copy_range

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_ENTRIES_MAX = 1 << 18
_NAME_BYTES_MAX = 255
_PAX_BYTES_MAX = 1 << 16
_SMALL_BYTES_MAX = 64 << 20
_THREADS = 2
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5": "zstd", b"BZ": "bzip2", b"\xfd7": "xz"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """Where the data of one regular file lies in the archive."""

    name: str
    offset: int
    size: int


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
            return cls(path, fd, _scan(fd, status.st_size))
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
            raise Corrupt(f"the entry {name} is too large")
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
        manifest = manifests.decode(self.read(manifests.NAME))
        listed = {entry.name: entry.size for entry in manifest.entries}
        found = {name: member.size for name, member in self.members.items()}
        del found[manifests.NAME]
        if len(listed) != len(manifest.entries) or listed != found:
            wrong = sorted(dict(listed.items() ^ found.items()))[:3]
            raise Corrupt(f"{self.path} and its manifest do not agree", details=", ".join(wrong))
        return manifest

    def verify(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Compare every entry with its digest in the manifest.

        Args: progress: told bytes done and bytes in all, from threads, one call at a time.
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
            member = self.members[entry.name]
            if digest_range(self._fd, member.offset, member.size, step) != entry.digest:
                raise Corrupt(f"{self.path}: the entry {entry.name} is damaged")

        with ThreadPoolExecutor(_THREADS, "archive-verify") as executor:
            for _ in executor.map(check, entries):
                pass

    def extract_images(self, directory: Path) -> int:
        """Write CRIU's images into an empty directory, 0600 each; return their total size.

        Raises: NotFound: the archive has none. NoSpace: the disk is full; the caller removes the
            directory.
        """
        images = self.images()
        with storage_errors(f"cannot unpack {self.path}"):
            dir_fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                for member in images:
                    self._extract(member, dir_fd)
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

    def _extract(self, member: Member, dir_fd: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        name = member.name.removeprefix(IMAGE_DIRECTORY)
        fd = os.open(name, flags, 0o600, dir_fd=dir_fd)
        try:
            if copy_range(self._fd, member.offset, fd, 0, member.size) != member.size:
                raise Corrupt(f"{self.path} is truncated")
        finally:
            os.close(fd)


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


def _scan(fd: int, file_bytes: int) -> dict[str, Member]:
    """Index the regular files of a tar."""
    members: dict[str, Member] = {}
    seen: set[str] = set()
    for header, offset in _headers(fd, file_bytes):
        name = _admitted_name(header)
        if name in seen:
            raise Corrupt(f"the archive has two entries {name!r}")
        if len(seen) >= _ENTRIES_MAX:
            raise Corrupt("the archive has too many entries")
        seen.add(name)
        if header.kind == tarformat.REGULAR:
            members[name] = Member(name=name, offset=offset, size=header.size)
    return members


def _headers(fd: int, file_bytes: int) -> Iterator[tuple[tarformat.Header, int]]:
    """Yield each header and the offset of its data, with long names and sizes applied."""
    position = 0
    pax: dict[bytes, bytes] = {}
    while True:
        block = os.pread(fd, tarformat.BLOCK_BYTES, position)
        if position == 0:
            _refuse_compressed(block)
        if len(block) < tarformat.BLOCK_BYTES:
            raise Corrupt("the archive is truncated")
        header = tarformat.parse_header(block)
        if header is None:
            if os.pread(fd, len(tarformat.END), position) != tarformat.END:
                raise Corrupt("the archive is truncated")
            return
        size = header.size
        if header.kind not in (tarformat.PAX, tarformat.GNU_LONG_NAME):
            size = tarformat.pax_number(pax, b"size", size)
        offset = position + tarformat.BLOCK_BYTES
        position = offset + tarformat.padded(size)
        if position > file_bytes:
            raise Corrupt("the archive is truncated")
        if header.kind in (tarformat.PAX, tarformat.GNU_LONG_NAME):
            pax |= _extension(fd, header, offset)
            continue
        yield _with_records(header, pax, size), offset
        pax = {}


def _extension(fd: int, header: tarformat.Header, offset: int) -> dict[bytes, bytes]:
    if header.size > _PAX_BYTES_MAX:
        raise Corrupt("an extended header of the archive is too large")
    data = os.pread(fd, header.size, offset)
    if header.kind == tarformat.GNU_LONG_NAME:
        return {b"path": data.rstrip(b"\0")}
    return tarformat.parse_pax(data)


def _with_records(header: tarformat.Header, pax: dict[bytes, bytes], size: int) -> tarformat.Header:
    return tarformat.Header(
        name=pax.get(b"path", header.name), kind=header.kind, size=size, mode=header.mode
    )


def _admitted_name(header: tarformat.Header) -> str:
    """Return the plain relative name of a file or directory; everything else is refused."""
    if header.kind not in (tarformat.REGULAR, tarformat.DIRECTORY):
        raise Corrupt(
            f"the archive holds something else than files: {header.name[:100]!r}",
            details=f"tar entry of type {header.kind!r}",
        )
    if header.kind == tarformat.DIRECTORY and header.size:
        raise Corrupt("a directory of the archive has a size")
    try:
        name = header.name.decode("ascii")
    except UnicodeDecodeError:
        name = ""
    if header.kind == tarformat.DIRECTORY:
        name = name.removesuffix("/")
    parts = name.split("/")
    if (
        not name.isprintable()
        or not 0 < len(name) <= _NAME_BYTES_MAX
        or any(part in ("", ".", "..") for part in parts)
    ):
        raise Corrupt(f"the archive has an entry of the name {header.name[:100]!r}")
    return name


def _refuse_compressed(block: bytes) -> None:
    if name := _COMPRESSED.get(block[:2]):
        raise Unsupported(f"the archive is compressed with {name}", hint=f"unpack the {name} first")
