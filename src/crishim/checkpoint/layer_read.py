"""A writable layer as tar entries: the reading side, which trusts nothing.

Yields one entry after the other with names checked component by component; what an entry means for
a directory is `layer_apply`'s business.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crishim.checkpoint import tarformat
from crishim.checkpoint.layer_write import (
    LITERAL,
    OPAQUE_NAME,
    PATCH,
    REMOVED,
    WHITEOUT_PREFIX,
    XATTR,
)
from crishim.errors import Corrupt

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_KINDS = frozenset(
    (
        tarformat.REGULAR,
        tarformat.HARD_LINK,
        tarformat.SYMLINK,
        tarformat.CHARACTER,
        tarformat.BLOCK,
        tarformat.DIRECTORY,
        tarformat.FIFO,
    )
)
_PAX_BYTES_MAX = 1 << 20
_PATH_BYTES_MAX = 1 << 16
_SPARSE_MAP_BYTES_MAX = 64 << 20
_FILE_BYTES_MAX = 1 << 62
_MTIME = re.compile(rb"(-?)(\d{1,12})(?:\.(\d{1,9})\d*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerEntry:
    """One entry of a layer.

    Attributes:
        path: components below the layer's root; empty for the root itself.
        kind: a tar type, or one of WHITEOUT, OPAQUE, REMOVED_ENTRY, PATCHED.
        link: target as written (symbolic link); see `target` for hard links.
        target: components of a hard link's target.
        extents: (offset in the file, offset in the archive, length) of the content.
        size: of the file, holes included.
    """

    path: tuple[bytes, ...]
    kind: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    link: bytes
    target: tuple[bytes, ...]
    device: tuple[int, int]
    xattrs: Mapping[str, bytes]
    extents: tuple[tuple[int, int, int], ...]
    size: int


WHITEOUT = b"whiteout"
OPAQUE = b"opaque"
REMOVED_ENTRY = b"removed"
PATCHED = b"patched"


def read_layer(fd: int, offset: int, size: int) -> Iterator[LayerEntry]:
    """Yield the entries of a layer that lies in an archive.

    Raises: Corrupt: not a layer of ours, truncated, or with a name that could leave it.
    """
    end = offset + size
    records: dict[bytes, bytes] = {}
    while True:
        block = os.pread(fd, tarformat.BLOCK_BYTES, offset)
        if offset + tarformat.BLOCK_BYTES > end or len(block) < tarformat.BLOCK_BYTES:
            raise Corrupt("the writable layer in the archive is truncated")
        header = tarformat.parse_header(block)
        if header is None:
            return
        offset += tarformat.BLOCK_BYTES
        data_bytes = header.size
        if header.kind != tarformat.PAX:
            data_bytes = tarformat.pax_number(records, b"size", data_bytes)
        if offset + tarformat.padded(data_bytes) > end:
            raise Corrupt("the writable layer in the archive is truncated")
        if header.kind == tarformat.PAX:
            if data_bytes > _PAX_BYTES_MAX:
                raise Corrupt("an extended header of the writable layer is too large")
            records = tarformat.parse_pax(os.pread(fd, data_bytes, offset))
        else:
            extents, file_bytes = _extents(fd, offset, data_bytes, records)
            yield _entry(header, records, extents, file_bytes)
            records = {}
        offset += tarformat.padded(data_bytes)


def _entry(
    header: tarformat.Header,
    records: Mapping[bytes, bytes],
    extents: tuple[tuple[int, int, int], ...],
    size: int,
) -> LayerEntry:
    if header.kind not in _KINDS:
        raise Corrupt(f"the writable layer has an entry of type {header.kind!r}")
    path = _components(records.get(b"path", header.name))
    if not path and header.kind != tarformat.DIRECTORY:
        raise Corrupt("the root of the writable layer is not a directory")
    kind, path = _meaning(header.kind, path, records)
    link = records.get(b"linkpath", header.link)
    if b"\0" in link or len(link) > _PATH_BYTES_MAX:
        raise Corrupt("a link of the writable layer has an impossible target")
    return LayerEntry(
        path=path,
        kind=kind,
        mode=header.mode & 0o7777,
        uid=_id(records, b"uid", header.uid),
        gid=_id(records, b"gid", header.gid),
        mtime_ns=_mtime_ns(records, header.mtime_s),
        link=link,
        target=_components(link) if header.kind == tarformat.HARD_LINK else (),
        device=header.device,
        xattrs={
            os.fsdecode(key.removeprefix(XATTR)): value
            for key, value in records.items()
            if key.startswith(XATTR) and b"\0" not in key
        },
        extents=extents,
        size=size,
    )


def _meaning(
    kind: bytes, path: tuple[bytes, ...], records: Mapping[bytes, bytes]
) -> tuple[bytes, tuple[bytes, ...]]:
    """Tell whiteouts from files of such names."""
    if kind == tarformat.REGULAR and PATCH in records:
        return PATCHED, path
    if kind != tarformat.REGULAR or LITERAL in records:
        return kind, path
    name = path[-1]
    if name == OPAQUE_NAME:
        return OPAQUE, path[:-1]
    if name.startswith(WHITEOUT_PREFIX):
        hidden = name.removeprefix(WHITEOUT_PREFIX)
        if hidden in (b"", b".", b".."):
            raise Corrupt("a whiteout of the writable layer has no name")
        return REMOVED_ENTRY if REMOVED in records else WHITEOUT, (*path[:-1], hidden)
    return kind, path


def _components(path: bytes) -> tuple[bytes, ...]:
    if path in (b".", b"./"):
        return ()
    parts = tuple(path.removesuffix(b"/").split(b"/"))
    if len(path) > _PATH_BYTES_MAX or any(
        part in (b"", b".", b"..") or b"\0" in part or len(part) > 255 for part in parts
    ):
        raise Corrupt(f"the writable layer has an entry of the name {path[:100]!r}")
    return parts


def _extents(
    fd: int, offset: int, data_bytes: int, records: Mapping[bytes, bytes]
) -> tuple[tuple[tuple[int, int, int], ...], int]:
    """Return where the parts of a file lie, and its size."""
    if b"GNU.sparse.major" not in records:
        return ((0, offset, data_bytes),) if data_bytes else (), data_bytes
    size = tarformat.pax_number(records, b"GNU.sparse.realsize", -1)
    if not 0 <= size <= _FILE_BYTES_MAX:
        raise Corrupt("a sparse file of the writable layer has no size")
    numbers, map_bytes = _sparse_numbers(fd, offset, data_bytes)
    extents = []
    position, data, data_end = 0, offset + map_bytes, offset + data_bytes
    for start, length in zip(numbers[0::2], numbers[1::2], strict=True):
        if start < position or start + length > size or data + length > data_end:
            raise Corrupt("a sparse file of the writable layer has a wrong map")
        if length:
            extents.append((start, data, length))
        position = start + length
        data += length
    return tuple(extents), size


def _sparse_numbers(fd: int, offset: int, data_bytes: int) -> tuple[list[int], int]:
    """Read GNU's map; return its numbers after the count, and the size of its blocks."""
    text = b""
    wanted = 1
    while True:
        lines = text.split(b"\n")[:-1]
        if lines and wanted == 1:
            wanted = 1 + 2 * _line_number(lines[0])
        if len(lines) >= wanted:
            return [_line_number(line) for line in lines[1:wanted]], len(text)
        if len(text) >= min(data_bytes, _SPARSE_MAP_BYTES_MAX):
            raise Corrupt("a sparse file of the writable layer has no end of its map")
        text += os.pread(fd, tarformat.BLOCK_BYTES, offset + len(text))


def _line_number(line: bytes) -> int:
    if not line.isdigit() or len(line) > 19:
        raise Corrupt("a sparse file of the writable layer has a map of no numbers")
    return int(line)


def _id(records: Mapping[bytes, bytes], key: bytes, default: int) -> int:
    value = tarformat.pax_number(records, key, default)
    if value >= 2**32 - 1:
        raise Corrupt("the writable layer has an impossible owner")
    return value


def _mtime_ns(records: Mapping[bytes, bytes], default_s: int) -> int:
    text = records.get(b"mtime")
    if text is None:
        return default_s * 10**9
    match = _MTIME.fullmatch(text)
    if match is None:
        raise Corrupt("the writable layer has a time that is none")
    value_ns = int(match[2]) * 10**9 + int((match[3] or b"").ljust(9, b"0"))
    return -value_ns if match[1] else value_ns
