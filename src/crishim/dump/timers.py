"""Mend what CRIU writes of a timer that ticked while nobody could read it.

A periodic timerfd that has expired and was not read yet has no time left until it is: the kernel
goes on counting when it is read. CRIU takes "no time left" for "not armed" and restores a timer
that never ticks again. Frozen processes read nothing, so this happens to every timer with a period
shorter than the pause.
Pure: an entry of files.img in, an entry out (`criuimages.mend_files`).
Source: fs/timerfd.c of Linux 6.12; criu/timerfd.c and images/timerfd.proto of CRIU 4.2.
"""

from __future__ import annotations

from crishim._proto.criu import images_pb2

_TIMER_TAG = b"\x62"
"""Field 12 of an entry, length-delimited: entries without it need no parsing."""


def rearm(body: bytes) -> bytes:
    """Give an expired periodic timer a moment left, after which it ticks; b"" for all others."""
    if _TIMER_TAG not in body:
        return b""
    entry = images_pb2.File.FromString(body)
    timer = entry.tfd
    if not (timer.isec or timer.insec) or timer.vsec or timer.vnsec:
        return b""
    timer.vnsec = 1
    return entry.SerializeToString()
