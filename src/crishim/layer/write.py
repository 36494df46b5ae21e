"""A writable layer as tar entries: the writing side of the layer's format.

The format is PAX with what OCI and GNU made common: whiteouts as `.wh.NAME`, opaque directories as
`.wh..wh..opq`, attributes as SCHILY.xattr.*, sparse files in GNU's format 1.0. Three records are
our own: CRISHIM.literal marks a real file whose name looks like a whiteout, CRISHIM.removed a
whiteout that means "was in an earlier pass, is gone from the upper directory now", CRISHIM.patch a
sparse file whose holes are what earlier passes copied. In the name of an attribute "%" and "=" are
written as GNU tar does, "%25" and "%3D": an equals sign ends the name of a record. Limits stand
here for both sides: what is beyond them is refused while the container still runs, because nobody
could read it back.
This module knows no directories and no passes; `read` is its counterpart.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from crishim.aio.quiet import between_pieces
from crishim.archive import tar
from crishim.errors import Unsupported
from crishim.kernel.atomic import pwrite_all
from crishim.kernel.splice import copy_range
from crishim.layer.extents import Extents

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

WHITEOUT_PREFIX = b".wh."
OPAQUE_NAME = b".wh..wh..opq"
LITERAL = b"CRISHIM.literal"
REMOVED = b"CRISHIM.removed"
PATCH = b"CRISHIM.patch"
XATTR = b"SCHILY.xattr."

DEPTH_MAX = 256
NAME_BYTES_MAX = 255
PATH_BYTES_MAX = (DEPTH_MAX + 2) * (NAME_BYTES_MAX + 1)
PAX_BYTES_MAX = 16 << 20
"""Attributes of one file, mostly; XFS takes thousands of 64 KiB for each."""
SPARSE_MAP_BYTES_MAX = 64 << 20
"""More than `EXTENTS_MAX` lines of the largest numbers."""

_BUFFER_BYTES = 1 << 20
_SMALL_BYTES = 64 << 10
_FIELD_BYTES = 100
_ID_MAX = 8**7
_SIZE_MAX = 8**11
_MTIME_MAX_NS = 8**11 * 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """How a file's content was written.

    Attributes:
        whole: False if the file got shorter meanwhile; zeros stand for what was missing.
        offset: where it lies in the file that takes the layer, without the holes.
        sparse: it has holes.
    """

    whole: bool
    offset: int
    sparse: bool


class LayerWriter:
    """Entries of one layer, written to a file from an offset on."""

    def __init__(self, fd: int, offset: int) -> None:
        self._fd = fd
        self._offset = offset
        self._buffer = bytearray()

    @property
    def offset(self) -> int:
        """Where the next bytes go that are written."""
        return self._offset

    def finish(self) -> int:
        """Write the end mark; return the offset behind it."""
        self._buffer += tar.END
        self.flush()
        return self._offset

    def directory(
        self, path: bytes, status: os.stat_result, xattrs: Mapping[bytes, bytes], *, opaque: bool
    ) -> None:
        """Write a directory; `b""` is the layer's root."""
        name = path + b"/" if path else b"./"
        self._entry(_header(name, tar.DIRECTORY, status, xattrs))
        if opaque:
            self._mark(path + b"/" + OPAQUE_NAME if path else OPAQUE_NAME)

    def whiteout(self, path: bytes) -> None:
        """Write that the layers below have a file which this one hides."""
        self._mark(_whiteout_name(path))

    def removed(self, path: bytes) -> None:
        """Write that an entry of an earlier pass is gone, and hides nothing."""
        self._mark(_whiteout_name(path), {REMOVED: b"1"})

    def hard_link(self, path: bytes, target: bytes, status: os.stat_result) -> None:
        """Write another name of a file written before."""
        self._entry(replace(_header(path, tar.HARD_LINK, status, {}), link=target))

    def symlink(
        self,
        path: bytes,
        status: os.stat_result,
        xattrs: Mapping[bytes, bytes],
        target: bytes,
    ) -> None:
        """Write a symbolic link."""
        self._entry(replace(_header(path, tar.SYMLINK, status, xattrs), link=target))

    def special(self, path: bytes, status: os.stat_result, xattrs: Mapping[bytes, bytes]) -> None:
        """Write a FIFO or a device node."""
        kinds = {stat.S_IFIFO: tar.FIFO, stat.S_IFCHR: tar.CHARACTER}
        kind = kinds.get(stat.S_IFMT(status.st_mode), tar.BLOCK)
        self._entry(_header(path, kind, status, xattrs))

    def file(
        self, path: bytes, status: os.stat_result, xattrs: Mapping[bytes, bytes], fd: int
    ) -> Content:
        """Write a regular file of exactly the size that `status` says, holes kept."""
        size = status.st_size
        header = _header(path, tar.REGULAR, status, xattrs)
        if is_sparse(status):
            extents = _extents(fd, size)
            if extents.total_bytes != size:
                return self._sparse(header, fd, extents, size)
        self._entry(replace(header, size=size))
        offset = self._offset + len(self._buffer)
        return Content(whole=self._content(fd, [(0, size)]), offset=offset, sparse=False)

    def patch(
        self,
        path: bytes,
        status: os.stat_result,
        xattrs: Mapping[bytes, bytes],
        fd: int,
        extents: Extents,
    ) -> Content:
        """Write what changed in a regular file that an earlier layer holds at this path."""
        header = _header(path, tar.REGULAR, status, xattrs)
        header = replace(header, pax={**header.pax, PATCH: b"1"})
        return self._sparse(header, fd, extents, status.st_size)

    def flush(self) -> None:
        """Hand everything written so far to the file."""
        pwrite_all(self._fd, self._buffer, self._offset)
        self._offset += len(self._buffer)
        self._buffer.clear()

    def _sparse(self, header: tar.Header, fd: int, extents: Extents, size: int) -> Content:
        """Write parts of a file and a map of them."""
        sparse_map = _sparse_map(extents, size)
        records = {
            b"GNU.sparse.major": b"1",
            b"GNU.sparse.minor": b"0",
            b"GNU.sparse.name": header.name,
            b"GNU.sparse.realsize": b"%d" % size,
        }
        data_bytes = len(sparse_map) + extents.total_bytes
        self._entry(replace(header, size=data_bytes, pax={**header.pax, **records}))
        self._buffer += sparse_map
        offset = self._offset + len(self._buffer)
        return Content(whole=self._content(fd, extents), offset=offset, sparse=True)

    def _mark(self, name: bytes, pax: Mapping[bytes, bytes] | None = None) -> None:
        self._entry(tar.Header(name=name, mode=0, pax=pax or {}))

    def _entry(self, header: tar.Header) -> None:
        """Write a header, and before it what it cannot hold."""
        pax = {**_long_names(header.name, header.link), **_large_numbers(header), **header.pax}
        if pax:
            extended = tar.build_pax(pax)
            if len(extended) > PAX_BYTES_MAX:
                raise Unsupported(
                    f"/{os.fsdecode(header.name)} has {len(extended)} bytes of extended attributes",
                    hint=f"{PAX_BYTES_MAX} are kept at most; remove some",
                )
            self._buffer += extended
        short = replace(header, name=header.name[:_FIELD_BYTES], link=header.link[:_FIELD_BYTES])
        self._buffer += tar.build_header(short)
        self._flush_if_full()

    def _content(self, fd: int, extents: Iterable[tuple[int, int]]) -> bool:
        total = 0
        whole = True
        for offset, size in extents:
            total += size
            if size <= _SMALL_BYTES:
                data = os.pread(fd, size, offset) if size else b""
                self._buffer += data
                missing = size - len(data)
                self._buffer += bytes(missing)
            else:
                self.flush()
                missing = size - copy_range(
                    fd, offset, self._fd, self._offset, size, between=between_pieces
                )
                self._offset += size - missing
                self._zeros(missing)
            whole = whole and not missing
        self._buffer += bytes(tar.padded(total) - total)
        self._flush_if_full()
        return whole

    def _zeros(self, size: int) -> None:
        """Write zeros, not a hole: the archive may have been written before with other data."""
        while size > 0:
            count = min(size, _BUFFER_BYTES)
            self._buffer += bytes(count)
            self.flush()
            size -= count

    def _flush_if_full(self) -> None:
        if len(self._buffer) >= _BUFFER_BYTES:
            self.flush()


def is_sparse(status: os.stat_result) -> bool:
    """Tell whether a file may have holes."""
    return status.st_blocks * 512 < status.st_size


def _whiteout_name(path: bytes) -> bytes:
    directory, name = os.path.split(path)
    return os.path.join(directory, WHITEOUT_PREFIX + name)


def _long_names(name: bytes, link: bytes) -> dict[bytes, bytes]:
    """Return records for names that the header cannot hold or that are not plain ASCII."""
    names = ((b"path", name), (b"linkpath", link))
    records = {
        key: value for key, value in names if len(value) > _FIELD_BYTES or not value.isascii()
    }
    for value in records.values():
        try:
            value.decode()
        except UnicodeDecodeError:
            return {b"hdrcharset": b"BINARY"} | records
    return records


def _header(
    name: bytes, kind: bytes, status: os.stat_result, xattrs: Mapping[bytes, bytes]
) -> tar.Header:
    """Return a header with what `status` and the attributes say."""
    pax = {
        XATTR + key.replace(b"%", b"%25").replace(b"=", b"%3D"): value
        for key, value in xattrs.items()
    }
    mtime_ns = status.st_mtime_ns
    if mtime_ns % 10**9 or not 0 <= mtime_ns < _MTIME_MAX_NS:
        sign = b"-" if mtime_ns < 0 else b""
        pax[b"mtime"] = b"%s%d.%09d" % (sign, *divmod(abs(mtime_ns), 10**9))
    if os.path.basename(name).startswith(WHITEOUT_PREFIX):
        pax[LITERAL] = b"1"
    return tar.Header(
        name=name,
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_s=mtime_ns // 10**9,
        device=(os.major(status.st_rdev), os.minor(status.st_rdev)),
        pax=pax,
    )


def _large_numbers(header: tar.Header) -> dict[bytes, bytes]:
    """Return records for numbers that are too large for the header."""
    numbers = (
        (b"uid", header.uid, _ID_MAX),
        (b"gid", header.gid, _ID_MAX),
        (b"size", header.size, _SIZE_MAX),
    )
    return {key: b"%d" % value for key, value, limit in numbers if value >= limit}


def _extents(fd: int, size: int) -> Extents:
    """Return the parts of a file that are not holes."""
    extents = Extents()
    position = 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break
        if start >= size:
            break
        position = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        extents.add(start, position - start)
    extents.finish()
    return extents


def _sparse_map(extents: Extents, size: int) -> bytes:
    """Return GNU's map: a count, then offset and length of each extent, in decimal lines."""
    last = [(size, 0)] if extents.end < size or not extents else []
    text = bytearray(b"%d\n" % (len(extents) + len(last)))
    for extent in itertools.chain(extents, last):
        text += b"%d\n%d\n" % extent
    return bytes(text) + bytes(tar.padded(len(text)) - len(text))
