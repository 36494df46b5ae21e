"""Mend what CRIU writes of a timer that ticked while nobody could read it.

A periodic timerfd that has expired and was not read yet has no time left until it is: the kernel
goes on counting when it is read. CRIU takes "no time left" for "not armed" and restores a timer
that never ticks again. Frozen processes read nothing, so this happens to every timer with a period
shorter than the pause.
Source: fs/timerfd.c of Linux 6.12; criu/timerfd.c and images/timerfd.proto of CRIU 4.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crishim._proto.criu import images_pb2

if TYPE_CHECKING:
    from pathlib import Path

_MAGIC_BYTES = 8
_SIZE_BYTES = 4
_TIMER_TAG = b"\x62"
"""Field 12 of an entry, length-delimited: entries without it need no parsing."""


def rearm(images: Path) -> int:
    """Give expired periodic timers a moment left, after which they tick; blocks.

    Args: images: CRIU's image directory, dumped.
    Returns: how many there were.
    """
    path = images / "files.img"
    data = path.read_bytes()
    parts = [data[:_MAGIC_BYTES]]
    mended = 0
    at = _MAGIC_BYTES
    while at < len(data):
        size = int.from_bytes(data[at : at + _SIZE_BYTES], "little")
        body = data[at + _SIZE_BYTES : at + _SIZE_BYTES + size]
        at += _SIZE_BYTES + size
        if _TIMER_TAG in body and (armed := _armed(body)):
            body = armed
            mended += 1
        parts += [len(body).to_bytes(_SIZE_BYTES, "little"), body]
    if mended:
        path.write_bytes(b"".join(parts))
    return mended


def _armed(body: bytes) -> bytes:
    """Return an entry of an expired periodic timer with the timer armed; b"" for all others."""
    entry = images_pb2.File.FromString(body)
    timer = entry.tfd
    if not (timer.isec or timer.insec) or timer.vsec or timer.vnsec:
        return b""
    timer.vnsec = 1
    return entry.SerializeToString()
