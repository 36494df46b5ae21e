"""The tar format, one header at a time: building and reading blocks, nothing about files.

Names and attribute values are bytes, as the kernel has them. Headers are POSIX ustar; what does
not fit (long names, times with fractions, attributes) goes into a PAX header before them. A size
that is known too late for that is written in base 256, which all readers know.
Source: POSIX pax(1); GNU tar manual, "Tar Internals" (base 256, sparse format 1.0).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from crishim.errors import Corrupt

if TYPE_CHECKING:
    from collections.abc import Mapping

BLOCK_BYTES = 512
END = bytes(2 * BLOCK_BYTES)

REGULAR = b"0"
HARD_LINK = b"1"
SYMLINK = b"2"
CHARACTER = b"3"
BLOCK = b"4"
DIRECTORY = b"5"
FIFO = b"6"
PAX = b"x"
GNU_LONG_NAME = b"L"

_OCTAL_SIZE_LIMIT = 8**11
_OCTAL_ID_LIMIT = 8**7


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What one header block says; PAX records are the reader's to apply."""

    name: bytes
    kind: bytes = REGULAR
    size: int = 0
    mode: int = 0o600
    uid: int = 0
    gid: int = 0
    mtime_s: int = 0
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    pax: Mapping[bytes, bytes] = field(default_factory=dict)


def padded(size: int) -> int:
    """Return `size` rounded up to whole blocks."""
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def build_header(header: Header) -> bytes:
    """Return the one block of a header whose `pax` has been written before.

    Raises: ValueError: the name or the link needs a PAX record and is not shortened by the caller.
    """
    if len(header.name) > 100 or len(header.link) > 100:
        raise ValueError("a name that needs a PAX record")
    block = bytearray(BLOCK_BYTES)
    block[0 : len(header.name)] = header.name
    block[100:108] = b"%07o\0" % (header.mode & 0o7777)
    block[108:116] = b"%07o\0" % (header.uid if header.uid < _OCTAL_ID_LIMIT else 0)
    block[116:124] = b"%07o\0" % (header.gid if header.gid < _OCTAL_ID_LIMIT else 0)
    block[124:136] = _size_field(header.size)
    block[136:148] = b"%011o\0" % (header.mtime_s if 0 <= header.mtime_s < 8**11 else 0)
    block[156:157] = header.kind
    block[157 : 157 + len(header.link)] = header.link
    block[257:265] = b"ustar\x0000"
    if header.kind in (CHARACTER, BLOCK):
        block[329:337] = b"%07o\0" % header.device[0]
        block[337:345] = b"%07o\0" % header.device[1]
    block[148:156] = b"%06o\0 " % checksum(block)
    return bytes(block)


def build_pax(records: Mapping[bytes, bytes], *, fill_bytes: int | None = None) -> bytes:
    """Return a PAX header with its data, to stand before the header it belongs to.

    Args: fill_bytes: make data of exactly this many bytes, a multiple of the block of at least 512,
        by a comment that readers skip.
    """
    data = b"".join(_record(key, value) for key, value in records.items())
    if fill_bytes is not None:
        data += _comment(fill_bytes - len(data))
    block = build_header(Header(name=b"PaxHeaders/crishim", kind=PAX, size=len(data), mode=0o644))
    return block + data + bytes(padded(len(data)) - len(data))


def parse_header(block: bytes) -> Header | None:
    """Read one block; None for a block of zeros, which begins the end of an archive.

    Raises: Corrupt: wrong checksum, or a number that is none.
    """
    if not block.strip(b"\0"):
        return None
    if _octal(block[148:156]) != checksum(block):
        raise Corrupt("a tar header's checksum is wrong")
    name = _text(block[0:100])
    if block[257:263] == b"ustar\0" and (prefix := _text(block[345:500])):
        name = prefix + b"/" + name
    return Header(
        name=name,
        kind=REGULAR if block[156:157] == b"\0" else block[156:157],
        size=_number(block[124:136]),
        mode=_number(block[100:108]),
        uid=_number(block[108:116]),
        gid=_number(block[116:124]),
        mtime_s=_number(block[136:148]),
        link=_text(block[157:257]),
        device=(_number(block[329:337]), _number(block[337:345])),
    )


def parse_pax(data: bytes) -> dict[bytes, bytes]:
    """Read the records of a PAX header; the last of a key wins.

    Raises: Corrupt: not a list of records.
    """
    records = {}
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 8)
        length = data[position:space] if space > 0 else b""
        if not length.isdigit():
            raise Corrupt("a PAX record has no length")
        end = position + int(length)
        if end > len(data) or end <= space + 1 or data[end - 1 : end] != b"\n":
            raise Corrupt("a PAX record has a wrong length")
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals:
            raise Corrupt("a PAX record has no value")
        records[key] = value
        position = end
    return records


def pax_number(records: Mapping[bytes, bytes], key: bytes, default: int) -> int:
    """Return a record that is a whole number not below zero.

    Raises: Corrupt: it is none.
    """
    text = records.get(key)
    if text is None:
        return default
    if not text.isdigit() or len(text) > 19:
        raise Corrupt(f"PAX record {key.decode(errors='replace')} is not a number")
    return int(text)


def checksum(block: bytes | bytearray) -> int:
    """Return the sum of a header's bytes with its checksum field taken as blanks."""
    return sum(block) - sum(block[148:156]) + 8 * 0x20


def _size_field(size: int) -> bytes:
    if size < _OCTAL_SIZE_LIMIT:
        return b"%011o\0" % size
    return b"\x80" + size.to_bytes(11, "big")


def _record(key: bytes, value: bytes) -> bytes:
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) > len(str(rest)):
        length += 1
    return b"%d %s=%s\n" % (length, key, value)


def _comment(size: int) -> bytes:
    """Return a comment record of exactly `size` bytes."""
    head = b"%d comment=" % size
    return head + b" " * (size - len(head) - 1) + b"\n"


def _text(field_bytes: bytes) -> bytes:
    return field_bytes.split(b"\0", 1)[0]


def _number(field_bytes: bytes) -> int:
    if field_bytes[0] == 0x80:
        return int.from_bytes(field_bytes[1:], "big")
    return _octal(field_bytes)


def _octal(field_bytes: bytes) -> int:
    text = field_bytes.split(b"\0", 1)[0].strip(b" ")
    if not text:
        return 0
    if text.strip(b"01234567"):
        raise Corrupt("a tar header holds a number that is none")
    return int(text, 8)
