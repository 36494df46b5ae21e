"""Bulk work stands still while a container is frozen, so that a pause has the node to itself.

Beside archives that are being verified CRIU writes memory at two thirds of its speed, whatever the
priority of their threads: they fill the way to memory as well as the processors. So those look
between two pieces of their work whether somebody is frozen. This module must never know a flow.
"""

from __future__ import annotations

import threading
import time

from crishim.checkpoint.lanes import gives_way

STAND_STILL_S = 2.0
"""At most, for each pause: a very large process must not hold up all restores of its node."""


class Quiet:
    """One container's time of quiet; used from the event loop alone."""

    def begin(self) -> None:
        """Let bulk work stand still between its pieces, for `STAND_STILL_S` at most."""
        _bulk.asked.add(self)
        _bulk.until = time.monotonic() + STAND_STILL_S
        _bulk.moves.clear()

    def end(self) -> None:
        """Let it go on unless another container is frozen; without `begin`, or again, is fine."""
        _bulk.asked.discard(self)
        if not _bulk.asked:
            _bulk.moves.set()


def between_pieces() -> None:
    """Stand still while a container is frozen, if this thread gives way; blocks."""
    if not _bulk.moves.is_set() and gives_way():
        _bulk.moves.wait(max(0.0, _bulk.until - time.monotonic()))


class _Bulk:
    def __init__(self) -> None:
        self.asked: set[Quiet] = set()
        self.until = 0.0
        self.moves = threading.Event()
        self.moves.set()


_bulk = _Bulk()
