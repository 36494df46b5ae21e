"""What a check returns: one thing looked at, how it is, and what mends it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Level(IntEnum):
    """How bad it is; numbered as in `crishim.v1.Finding.Level`."""

    OK = 1
    WARNING = 2
    """Works with limits that the summary names."""
    ERROR = 3
    """Checkpoint or restore will fail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        id: stable and for programs, such as "criu.version".
        summary: one sentence.
        cure: what to do about it; "" at level OK.
    """

    id: str
    level: Level
    summary: str
    cure: str = ""


def ok(check: str, summary: str) -> Finding:
    """Return a finding about something that is as it should be."""
    return Finding(id=check, level=Level.OK, summary=summary)


def warning(check: str, summary: str, *, cure: str) -> Finding:
    """Return a finding about something that works with limits."""
    return Finding(id=check, level=Level.WARNING, summary=summary, cure=cure)


def error(check: str, summary: str, *, cure: str) -> Finding:
    """Return a finding about something that makes checkpoints or restores fail."""
    return Finding(id=check, level=Level.ERROR, summary=summary, cure=cure)
