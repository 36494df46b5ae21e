"""Threads with a purpose: what must not wait never stands behind what takes long.

Blocking work runs in one of three pools. None of them borrows from another, so a dozen archives
that are being verified cannot keep a frozen container from being thawed, nor an ordinary call from
reading its record. This module knows no flow; `shield.in_thread` hands work in.
"""

from __future__ import annotations

import enum
import functools
import os
import threading
from concurrent.futures import ThreadPoolExecutor

_BULK_NICE = 10
_of_thread = threading.local()


class Lane(enum.Enum):
    """Which threads a piece of work runs in.

    ORDINARY: short work, such as a record that is read or written.
    BULK: what reads or writes a container's worth of bytes, and whatever else may take seconds
        while nobody is frozen. It gives way to the rest of the node, and to pauses (`quiet`).
    PAUSE: what runs while a container is frozen, thaws it, or undoes something.
    """

    ORDINARY = "ordinary"
    BULK = "bulk"
    PAUSE = "pause"


_THREADS = {Lane.ORDINARY: 32, Lane.BULK: 8, Lane.PAUSE: 32}


@functools.cache
def threads(lane: Lane) -> ThreadPoolExecutor:
    """Return the pool of a lane; it lives as long as the process, and its threads begin with work.

    The bounds are far above what a node does at a time: dumps and restores take turns.
    """
    return ThreadPoolExecutor(
        _THREADS[lane],
        thread_name_prefix=lane.value,
        initializer=give_way if lane is Lane.BULK else None,
    )


def give_way() -> None:
    """Let the rest of the node have the processor first, as the thread that calls this.

    A CRIU that writes memory while its container is frozen would share its processor otherwise.
    Source: setpriority(2): on Linux the nice value belongs to a thread.
    """
    own = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, max(own, _BULK_NICE))
    _of_thread.gives_way = True


def gives_way() -> bool:
    """Return whether this thread does."""
    return getattr(_of_thread, "gives_way", False)
