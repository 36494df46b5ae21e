"""Bulk work stands still while a container is frozen, so that a pause has the node to itself.

Beside archives that are being verified CRIU writes memory at two thirds of its speed, whatever the
priority of their threads: they fill the way to memory as well as the processors. So those look
between two pieces of their work whether somebody is frozen. This module must never know a flow.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

from crishim.aio.lanes import gives_way

if TYPE_CHECKING:
    from collections.abc import Iterator

STAND_STILL_S = 2.0
"""At most, for each pause: a very large process must not hold up all restores of its node."""


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Let bulk work stand still in the block, for `STAND_STILL_S` at most.

    It goes on with the last of several blocks. Used from the event loop alone.
    """
    _bulk.frozen += 1
    _bulk.until = time.monotonic() + STAND_STILL_S
    _bulk.moves.clear()
    try:
        yield
    finally:
        _bulk.frozen -= 1
        if not _bulk.frozen:
            _bulk.moves.set()


def between_pieces() -> None:
    """Stand still while a container is frozen, if this thread gives way; blocks."""
    if not _bulk.moves.is_set() and gives_way():
        _bulk.moves.wait(max(0.0, _bulk.until - time.monotonic()))


class _Bulk:
    def __init__(self) -> None:
        self.frozen = 0
        self.until = 0.0
        self.moves = threading.Event()
        self.moves.set()


_bulk = _Bulk()
