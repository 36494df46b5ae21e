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
from crishim.checkpoint.criuimages import FILES_MAGIC, HEAD_BYTES, SIZE_BYTES, bodies

if TYPE_CHECKING:
    from pathlib import Path

_TIMER_TAG = b"\x62"
"""Field 12 of an entry, length-delimited: entries without it need no parsing."""


def rearm(images: Path) -> int:
    """Give expired periodic timers a moment left, after which they tick; blocks.

    Args: images: CRIU's image directory, dumped.
    Returns: how many there were.
    Raises: Corrupt: the image is no such image.
    """
    path = images / "files.img"
    data = path.read_bytes()
    parts = [data[:HEAD_BYTES]]
    mended = 0
    for body in bodies(data, path.name, FILES_MAGIC):
        armed = _armed(body) if _TIMER_TAG in body else b""
        mended += bool(armed)
        parts += [len(armed or body).to_bytes(SIZE_BYTES, "little"), armed or body]
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
