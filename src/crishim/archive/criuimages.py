"""Read what CRIU's images say of processes, sockets and mounts.

The images may have been written by anybody: sizes are bounded by what the archive holds, counts by
limits, and texts for people are made printable. `rights_read` decides by some of them.
`mend_files` alone writes: to images that a dump of ours has just made.

Source: criu/include/magic.h, criu/image.c, criu/image-desc.c and images/*.proto of CRIU 4.2;
criu/sk-inet.c for addresses.
"""

from __future__ import annotations

import re
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import DecodeError

from crishim._proto.criu import images_pb2
from crishim.archive.writer import IMAGE_DIRECTORY
from crishim.errors import Corrupt
from crishim.kernel import mounts as mount_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from google.protobuf.message import Message

    from crishim.archive.reader import ArchiveReader

HEAD_BYTES = 8
SIZE_BYTES = 4
_COMMON_MAGIC = 0x54564319
PSTREE_MAGIC = 0x50273030
CORE_MAGIC = 0x55053847
FILES_MAGIC = 0x56303138
MOUNTS_MAGIC = 0x55563928
REMAPS_MAGIC = 0x59133954
IDS_MAGIC = 0x54432030
INVENTORY_MAGIC = 0x58313116
SECCOMP_MAGIC = 0x64413049
ENTRIES_MAX = 1 << 16
_TEXT_MAX = 4096
_MOUNTS = re.compile(rf"{re.escape(IMAGE_DIRECTORY)}mountpoints-\d+\.img")
_FAMILIES = {socket.AF_INET: (1, ""), socket.AF_INET6: (4, "6")}
_PROTOCOLS = {
    socket.IPPROTO_TCP: "tcp",
    socket.IPPROTO_UDP: "udp",
    socket.IPPROTO_ICMP: "icmp",
    socket.IPPROTO_RAW: "raw",
    136: "udplite",
}
# Numbered from 1, as in the kernel's tcp_states.h.
_STATES = (
    *("established", "syn-sent", "syn-received", "fin-wait-1", "fin-wait-2", "time-wait"),
    *("closed", "close-wait", "last-ack", "listen", "closing", "new-syn-received"),
)
_FILE_SYSTEMS = {
    **{1: "proc", 2: "sysfs", 3: "devtmpfs", 4: "binfmt_misc", 5: "tmpfs", 6: "devpts"},
    **{8: "pstore", 9: "securityfs", 10: "fusectl", 11: "debugfs", 12: "cgroup", 14: "mqueue"},
    **{17: "overlay", 18: "autofs", 19: "tracefs", 23: "cgroup2"},
}

_Entry = TypeVar("_Entry", bound="Message")


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process; ids as the container's pid namespace sees them.

    Attributes:
        ppid: 0 for the container's first process.
    """

    pid: int
    ppid: int
    command: str
    uid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InetSocket:
    """An internet socket; `state` and `remote` are "" where there is none."""

    protocol: str
    state: str
    local: str
    remote: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A mount of the container.

    Attributes:
        type: of its file system; "" for one that CRIU has no number and no name for.
    """

    destination: str
    type: str
    source: str
    read_only: bool


def processes(archive: ArchiveReader) -> list[Process]:
    """Return the processes, parents before their children.

    Raises: NotFound: an image is missing. Corrupt: one is damaged.
    """
    found = []
    for entry in entries(archive, "pstree.img", PSTREE_MAGIC, images_pb2.Process):
        cores = entries(archive, f"core-{entry.pid}.img", CORE_MAGIC, images_pb2.Core)
        core = next(cores, images_pb2.Core())
        found.append(
            Process(
                pid=entry.pid,
                ppid=entry.ppid,
                command=text(core.tc.comm),
                uid=core.thread_core.creds.uid,
            )
        )
    return found


def sockets(archive: ArchiveReader) -> list[InetSocket]:
    """Return the internet sockets, in the order of the image; raise like `processes`."""
    files = entries(archive, "files.img", FILES_MAGIC, images_pb2.File)
    return [
        _socket(file.isk) for file in files if file.HasField("isk") and file.isk.family in _FAMILIES
    ]


def mounts(archive: ArchiveReader) -> list[Mount]:
    """Return the mounts of the container by their places; raise Corrupt like `processes`."""
    names = [name for name in archive.members if _MOUNTS.fullmatch(name)]
    found = [
        _mount(entry)
        for name in names
        for entry in entries(
            archive, name.removeprefix(IMAGE_DIRECTORY), MOUNTS_MAGIC, images_pb2.Mount
        )
    ]
    return sorted(found, key=lambda mount: mount.destination)


def bodies(data: bytes, name: str, magic: int) -> Iterator[bytes]:
    """Yield the encoded messages of one image file: two magic numbers, then size and message each.

    The inventory, by which CRIU knows what the others are, has one number only.
    Raises: Corrupt: it is cut short, or another kind of image.
    """
    numbers = (magic,) if magic == INVENTORY_MAGIC else (_COMMON_MAGIC, magic)
    head = struct.pack(f"<{len(numbers)}I", *numbers)
    if not data.startswith(head):
        raise Corrupt(f"{name} does not begin as such an image of CRIU does")
    at = len(head)
    while at < len(data):
        size = int.from_bytes(data[at : at + SIZE_BYTES], "little")
        body = data[at + SIZE_BYTES : at + SIZE_BYTES + size]
        if len(data) < at + SIZE_BYTES or len(body) != size:
            raise Corrupt(f"{name} is cut short")
        yield body
        at += SIZE_BYTES + size


def mend_files(images: Path, *mends: Callable[[bytes], bytes]) -> int:
    """Write the entries of an image directory's files.img anew as far as they need mending; blocks.

    Args: images: CRIU's image directory, dumped. mends: each given an encoded entry; returns what
        it is to be, b"" for what stays as it is.
    Returns: how many were mended.
    Raises: Corrupt: the image is no such image.
    """
    path = images / "files.img"
    data = path.read_bytes()
    parts = [data[:HEAD_BYTES]]
    mended = 0
    for body in bodies(data, path.name, FILES_MAGIC):
        entry = body
        for mend in mends:
            entry = mend(entry) or entry
        mended += entry is not body
        parts += [len(entry).to_bytes(SIZE_BYTES, "little"), entry]
    if mended:
        path.write_bytes(b"".join(parts))
    return mended


def file_system(entry: images_pb2.Mount) -> str:
    """Return the type of a mount's file system; "" for one that CRIU has no name for."""
    return _FILE_SYSTEMS.get(entry.fstype, "") or text(entry.fsname)


def entries(archive: ArchiveReader, name: str, magic: int, kind: type[_Entry]) -> Iterator[_Entry]:
    """Yield the messages of one image of an archive; raise like `processes`."""
    for number, body in enumerate(bodies(archive.read(IMAGE_DIRECTORY + name), name, magic)):
        if number == ENTRIES_MAX:
            raise Corrupt(f"{name} has more than {ENTRIES_MAX} entries")
        try:
            yield kind.FromString(body)
        except DecodeError as error:
            raise Corrupt(f"{name} is damaged") from error


def _socket(entry: images_pb2.InetSocket) -> InetSocket:
    words, suffix = _FAMILIES[socket.AddressFamily(entry.family)]
    protocol = _PROTOCOLS.get(entry.proto, str(entry.proto))
    with_state = entry.proto == socket.IPPROTO_TCP and 0 < entry.state <= len(_STATES)
    return InetSocket(
        protocol=protocol + suffix,
        state=_STATES[entry.state - 1] if with_state else "",
        local=_end(entry.family, entry.src_addr[:words], entry.src_port),
        remote=_end(entry.family, entry.dst_addr[:words], entry.dst_port) if entry.dst_port else "",
    )


def _end(family: int, words: list[int], port: int) -> str:
    """Write an address, whose words lie in memory as in a packet, and a port."""
    length = 16 if family == socket.AF_INET6 else 4
    packed = b"".join(struct.pack("=I", word) for word in words).ljust(length, b"\0")
    host = socket.inet_ntop(family, packed)
    return f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}"


def _mount(entry: images_pb2.Mount) -> Mount:
    return Mount(
        destination="/" + text(entry.mountpoint).removeprefix(".").lstrip("/"),
        type=file_system(entry),
        source=text(entry.source),
        read_only=bool(entry.flags & mount_table.MS_RDONLY),
    )


def text(data: bytes) -> str:
    """Return a text for people; what would steer a terminal is shown, not done."""
    shown = data[:_TEXT_MAX].decode(errors="replace")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in shown)
