"""Exit statuses of the `crishim` command; programs may rely on them."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """What the exit status says."""

    OK = 0
    FAILED = 1
    """The operation failed; standard error says why."""
    USAGE = 2
    """Wrong arguments or configuration; nothing was tried."""
    BUSY = 3
    """Another instance, or another operation on the same object, is under way."""
