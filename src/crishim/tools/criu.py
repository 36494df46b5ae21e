"""What we say to CRIU and read from it beside runc: configuration files and statistics.

Source: criu(8) "configuration files"; images/stats.proto and criu/stats.c of CRIU 4.2.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from crishim.errors import Corrupt, Precondition, ToolMissing
from crishim.kernel import mounts, process, procs
from crishim.tools.known import Known

if TYPE_CHECKING:
    from collections.abc import Iterator

_IMG_SERVICE_MAGIC = 0x55105940
_STATS_MAGIC = 0x57093306
_STATS_CAP_BYTES = 1 << 16
_OLDEST = 31600
_VERSION = re.compile(r"Version: (\d+(?:\.\d+)*)")
_TIMEOUT_S = 30.0
_YARDS = Path("/tmp")  # noqa: S108 - CRIU's choice, looked at only
_YARD = ".criu.mntns."


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpStatistics:
    """CRIU's own figures of one dump; the names are those of `dump_stats_entry`."""

    freezing_us: int = 0
    frozen_us: int = 0
    memdump_us: int = 0
    memwrite_us: int = 0
    pages_scanned: int = 0
    pages_skipped_parent: int = 0
    pages_written: int = 0


def dump_config(*, tcp_close: bool) -> str:
    """Return the CRIU options of a dump that runc has no flag for.

    The network lock is ours (`network/hold.py`), so CRIU's is off: its iptables rules would
    cost more than the dump of a small process and would cover the whole pod.

    Args: tcp_close: dump established connections as closed ones.
    """
    return "network-lock skip\nghost-limit 1G\n" + "tcp-close\n" * tcp_close


def restore_config(*, tcp_close: bool) -> str:
    """Return the CRIU options of a restore that runc has no flag for."""
    return "network-lock skip\n" + "tcp-close\n" * tcp_close


def read_dump_statistics(path: Path) -> DumpStatistics:
    """Decode CRIU's stats-dump.

    Raises: Corrupt: it is not such a file.
    """
    with path.open("rb") as file:
        data = file.read(_STATS_CAP_BYTES)
    try:
        service, kind, size = struct.unpack_from("<III", data)
        if (service, kind) != (_IMG_SERVICE_MAGIC, _STATS_MAGIC):
            raise Corrupt(f"{path.name} does not begin as CRIU's statistics do")
        entry = dict(_protobuf_fields(data[12 : 12 + size]))
        dump = entry.get(1)
        values = dict(_protobuf_fields(dump)) if isinstance(dump, bytes) else {}
    except (struct.error, IndexError) as error:
        raise Corrupt(f"{path.name} is cut short") from error
    named = {}
    for number, field in enumerate(fields(DumpStatistics), start=1):
        value = values.get(number, 0)
        named[field.name] = value if isinstance(value, int) else 0
    return DumpStatistics(**named)


def _protobuf_fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of the varint and length-delimited fields of one message."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        if key & 7 == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
        elif key & 7 == 2:
            size, at = _varint(data, at)
            yield key >> 3, data[at : at + size]
            at += size
        else:
            raise Corrupt(f"unexpected wire type {key & 7} in CRIU's statistics")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7


_version: Known[str] = Known()


def sweep_yards(directory: Path = _YARDS) -> list[str]:
    """Take away the mounts that a restore makes for itself and that a killed CRIU leaves.

    containerd kills what restores for a caller that has gone. Blocks.
    Returns: where they were; none while a CRIU runs, because it may have made them.
    Source: criu/mount.c of CRIU 4.2 (mnt_roots).
    """
    prefix = f"{directory}/{_YARD}"
    found = [item.mount_point for item in mounts.read_mounts()]
    found = [path for path in found if path.startswith(prefix)]
    if not found or procs.runs("criu"):
        return []
    for path in found:
        mounts.umount(Path(path), detach=True)
        Path(path).rmdir()
    return found


async def version(*, container: str) -> str:
    """Return CRIU's version.

    Args: container: named in the error, in the words that the kubelet's tests look for.
    Raises: ToolMissing: CRIU is missing or older than 3.16.
    """
    refusal = ToolMissing(
        f"CRIU binary not found or too old (<{_OLDEST}). "
        f'Failed to checkpoint container "{container}"',
        hint="install CRIU 4.2 or newer",
    )
    try:
        found = await _version.get("criu", _ask_version)
    except Precondition as error:
        raise refusal from error
    if not found or _number(found) < _OLDEST:
        raise refusal
    return found


async def _ask_version() -> str:
    done = await process.run(["criu", "--version"], timeout_s=_TIMEOUT_S)
    match = _VERSION.search(done.stdout.decode(errors="replace"))
    return match.group(1) if match else ""


def _number(version: str) -> int:
    """Turn "4.2.1" into 40201, as CRIU does in its own interfaces."""
    parts = [int(part) for part in version.split(".")[:3]] + [0, 0]
    return parts[0] * 10000 + parts[1] * 100 + parts[2]
