"""The index of an outer tar that anybody may have written.

A scan of all headers admits regular files and directories only, with plain relative names, inside
the bounds of the file. It reads nothing but headers and knows nothing of what entries mean.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from crishim.archive import tar
from crishim.errors import Corrupt, Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterator

_ENTRIES_MAX = 1 << 18
_NAME_BYTES_MAX = 255
_PAX_BYTES_MAX = 1 << 16
_EXTENSIONS = (tar.PAX, tar.GNU_LONG_NAME)
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5": "zstd", b"BZ": "bzip2", b"\xfd7": "xz"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """Where the data of one regular file lies in the archive."""

    name: str
    offset: int
    size: int


def scan(fd: int, file_bytes: int) -> dict[str, Member]:
    """Index the regular files of a tar.

    Args: file_bytes: size of the file.
    Returns: the files by name, in their order.
    Raises: Corrupt: truncated, damaged, or with entries that no archive of ours has.
        Unsupported: compressed.
    """
    members: dict[str, Member] = {}
    seen: set[str] = set()
    for header, offset in _headers(fd, file_bytes):
        name = _admitted_name(header)
        if name in seen:
            raise Corrupt(f"the archive has two entries {name!r}")
        if len(seen) >= _ENTRIES_MAX:
            raise Corrupt("the archive has too many entries")
        seen.add(name)
        if header.kind == tar.REGULAR:
            members[name] = Member(name=name, offset=offset, size=header.size)
    return members


def _headers(fd: int, file_bytes: int) -> Iterator[tuple[tar.Header, int]]:
    """Yield each header and the offset of its data, with long names and sizes applied."""
    position = 0
    pax: dict[bytes, bytes] = {}
    while True:
        block = os.pread(fd, tar.BLOCK_BYTES, position)
        if position == 0:
            _refuse_compressed(block)
        if len(block) < tar.BLOCK_BYTES:
            raise Corrupt("the archive is truncated")
        header = tar.parse_header(block)
        if header is None:
            if os.pread(fd, len(tar.END), position) != tar.END:
                raise Corrupt("the archive is truncated")
            return
        size = header.size
        if header.kind not in _EXTENSIONS:
            size = tar.pax_number(pax, b"size", size)
        offset = position + tar.BLOCK_BYTES
        position = offset + tar.padded(size)
        if position > file_bytes:
            raise Corrupt("the archive is truncated")
        if header.kind in _EXTENSIONS:
            pax |= _extension(fd, header, offset)
            continue
        yield replace(header, name=pax.get(b"path", header.name), size=size), offset
        pax = {}


def _extension(fd: int, header: tar.Header, offset: int) -> dict[bytes, bytes]:
    if header.size > _PAX_BYTES_MAX:
        raise Corrupt("an extended header of the archive is too large")
    data = os.pread(fd, header.size, offset)
    if header.kind == tar.GNU_LONG_NAME:
        return {b"path": data.rstrip(b"\0")}
    return tar.parse_pax(data)


def _admitted_name(header: tar.Header) -> str:
    """Return the plain relative name of a file or directory; everything else is refused."""
    if header.kind not in (tar.REGULAR, tar.DIRECTORY):
        raise Corrupt(
            f"the archive holds something else than files: {header.name[:100]!r}",
            details=f"tar entry of type {header.kind!r}",
        )
    if header.kind == tar.DIRECTORY and header.size:
        raise Corrupt("a directory of the archive has a size")
    try:
        name = header.name.decode("ascii")
    except UnicodeDecodeError:
        name = ""
    if header.kind == tar.DIRECTORY:
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
