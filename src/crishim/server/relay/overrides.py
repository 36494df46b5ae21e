"""A call of CRI that crishim answers itself, and what it may do with it.

Whoever relays makes calls: today from gRPC, later perhaps from HTTP/2 frames. Who answers them
knows neither, and can be called by a test that has no server at all.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Call:
    """One call with one answer.

    Attributes:
        raw: the request as the caller sent it.
        forward: passes these request bytes on to containerd, as the same method, with the caller's
            metadata and deadline; returns its answer, whose metadata reach the caller. Raises what
            containerd refuses with; the caller gets that unchanged. On cancel containerd's call is
            cancelled too.
    """

    raw: bytes
    forward: Callable[[bytes], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class StreamCall:
    """One call with many answers; `forward` yields containerd's, and ends its call on close."""

    raw: bytes
    forward: Callable[[bytes], AsyncGenerator[bytes, None]]


Override: TypeAlias = Callable[[Call], Awaitable[bytes]]
"""Answers a unary method; returns the raw answer."""
StreamOverride: TypeAlias = Callable[[StreamCall], AsyncIterator[bytes]]
"""Answers a server-streaming method; yields raw answers."""
