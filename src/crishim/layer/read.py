"""A writable layer as tar entries: the reading side, which trusts nothing.

Yields one entry after the other with names checked component by component; what an entry means for
a directory is `apply`'s business.
"""

from __future__ import annotations

import os
import re
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crishim.archive import tar
from crishim.errors import Corrupt
from crishim.layer.extents import Extents
from crishim.layer.write import (
    DEPTH_MAX,
    LITERAL,
    NAME_BYTES_MAX,
    OPAQUE_NAME,
    PATCH,
    PATH_BYTES_MAX,
    PAX_BYTES_MAX,
    REMOVED,
    SPARSE_MAP_BYTES_MAX,
    WHITEOUT_PREFIX,
    XATTR,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_KINDS = frozenset(
    (
        tar.REGULAR,
        tar.HARD_LINK,
        tar.SYMLINK,
        tar.CHARACTER,
        tar.BLOCK,
        tar.DIRECTORY,
        tar.FIFO,
    )
)
_FILE_BYTES_MAX = (1 << 63) - 1
_MAP_SLICE_BYTES = 64 << 10
"""As much of a map is split at a time: no other thread runs meanwhile."""
_MTIME = re.compile(rb"(-?)(\d{1,12})(?:\.(\d{1,9})\d*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerEntry:
    """One entry of a layer.

    Attributes:
        path: components below the layer's root; empty for the root itself.
        kind: a tar type, or one of WHITEOUT, OPAQUE, REMOVED_ENTRY, PATCHED.
        link: target as written (symbolic link); see `target` for hard links.
        target: components of a hard link's target.
        extents: the parts of a file that have content.
        data: where that lies in the archive, part after part.
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
    extents: Extents
    data: int
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
        block = os.pread(fd, tar.BLOCK_BYTES, offset)
        if offset + tar.BLOCK_BYTES > end or len(block) < tar.BLOCK_BYTES:
            raise Corrupt("the writable layer in the archive is truncated")
        header = tar.parse_header(block)
        if header is None:
            return
        offset += tar.BLOCK_BYTES
        data_bytes = header.size
        if header.kind != tar.PAX:
            data_bytes = tar.pax_number(records, b"size", data_bytes)
        if offset + tar.padded(data_bytes) > end:
            raise Corrupt("the writable layer in the archive is truncated")
        if header.kind == tar.PAX:
            if data_bytes > PAX_BYTES_MAX:
                raise Corrupt("an extended header of the writable layer is too large")
            records = tar.parse_pax(os.pread(fd, data_bytes, offset))
        else:
            yield _entry(header, records, _content(fd, offset, data_bytes, records))
            records = {}
        offset += tar.padded(data_bytes)


def _entry(
    header: tar.Header,
    records: Mapping[bytes, bytes],
    content: tuple[Extents, int, int],
) -> LayerEntry:
    if header.kind not in _KINDS:
        raise Corrupt(f"the writable layer has an entry of type {header.kind!r}")
    path = _components(records.get(b"path", header.name))
    if not path and header.kind != tar.DIRECTORY:
        raise Corrupt("the root of the writable layer is not a directory")
    kind, path = _meaning(header.kind, path, records)
    if path and len(path[-1]) > NAME_BYTES_MAX:
        raise Corrupt(f"the writable layer has an entry of the name {path[-1][:100]!r}")
    extents, data, size = content
    link = records.get(b"linkpath", header.link)
    if b"\0" in link or len(link) > PATH_BYTES_MAX:
        raise Corrupt("a link of the writable layer has an impossible target")
    return LayerEntry(
        path=path,
        kind=kind,
        mode=header.mode & 0o7777,
        uid=_id(records, b"uid", header.uid),
        gid=_id(records, b"gid", header.gid),
        mtime_ns=_mtime_ns(records, header.mtime_s),
        link=link,
        target=_components(link) if header.kind == tar.HARD_LINK else (),
        device=header.device,
        xattrs={
            _attribute(key): value
            for key, value in records.items()
            if key.startswith(XATTR) and b"\0" not in key
        },
        extents=extents,
        data=data,
        size=size,
    )


def _attribute(key: bytes) -> str:
    """Return the name of the attribute that a record holds."""
    name = key.removeprefix(XATTR).replace(b"%3D", b"=").replace(b"%25", b"%")
    return os.fsdecode(name)


def _meaning(
    kind: bytes, path: tuple[bytes, ...], records: Mapping[bytes, bytes]
) -> tuple[bytes, tuple[bytes, ...]]:
    """Tell whiteouts from files of such names."""
    if kind == tar.REGULAR and PATCH in records:
        return PATCHED, path
    if kind != tar.REGULAR or LITERAL in records:
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
    longest = NAME_BYTES_MAX + len(WHITEOUT_PREFIX)
    if (
        len(path) > PATH_BYTES_MAX
        or len(parts) > DEPTH_MAX + 2
        or any(part in (b"", b".", b"..") or b"\0" in part for part in parts)
        or any(len(part) > longest for part in parts)
    ):
        raise Corrupt(f"the writable layer has an entry of the name {path[:100]!r}")
    return parts


def _content(
    fd: int, offset: int, data_bytes: int, records: Mapping[bytes, bytes]
) -> tuple[Extents, int, int]:
    """Return what parts a file has, where they lie, and its size."""
    if b"GNU.sparse.major" not in records:
        return Extents([(0, data_bytes)] if data_bytes else ()), offset, data_bytes
    size = tar.pax_number(records, b"GNU.sparse.realsize", -1)
    if not 0 <= size <= _FILE_BYTES_MAX:
        raise Corrupt("a sparse file of the writable layer has no size")
    numbers, map_bytes = _sparse_numbers(fd, offset, data_bytes)
    extents = Extents(limit=SPARSE_MAP_BYTES_MAX)
    position, left = 0, data_bytes - map_bytes
    for start, length in zip(numbers[0::2], numbers[1::2], strict=True):
        left -= length
        if start < position or start + length > size or left < 0:
            raise Corrupt("a sparse file of the writable layer has a wrong map")
        if length:
            extents.add(start, length)
        position = start + length
    return extents, offset + map_bytes, size


def _sparse_numbers(fd: int, offset: int, data_bytes: int) -> tuple[array[int], int]:
    """Read GNU's map; return its numbers after the count, and the size of its blocks."""
    limit = min(data_bytes, SPARSE_MAP_BYTES_MAX)
    numbers = array("q")
    wanted = 1
    done = 0
    while len(numbers) < wanted:
        # Lines that go on into the next slice are read again.
        text = os.pread(fd, min(_MAP_SLICE_BYTES, limit - done), offset + done)
        lines = text.split(b"\n")[:-1][: wanted - len(numbers)]
        if not lines:
            raise Corrupt("a sparse file of the writable layer has no end of its map")
        numbers.extend(map(_line_number, lines))
        done += sum(map(len, lines)) + len(lines)
        if wanted == 1:
            wanted += 2 * min(numbers[0], SPARSE_MAP_BYTES_MAX)
    return numbers[1:], tar.padded(done)


def _line_number(line: bytes) -> int:
    if not line.isdigit() or len(line) > 19 or (number := int(line)) > _FILE_BYTES_MAX:
        raise Corrupt("a sparse file of the writable layer has a map of no numbers")
    return number


def _id(records: Mapping[bytes, bytes], key: bytes, default: int) -> int:
    value = tar.pax_number(records, key, default)
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
