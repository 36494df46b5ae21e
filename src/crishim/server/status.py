"""The one table from errors to gRPC status.

The only file that chooses the status of an error of ours. Callers act on few codes: kubelet's CRI
client singles out NOT_FOUND, UNIMPLEMENTED, DEADLINE_EXCEEDED and UNAVAILABLE.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from crishim import errors

if TYPE_CHECKING:
    from collections.abc import Sequence

_TABLE: tuple[tuple[type[BaseException], grpc.StatusCode], ...] = (
    (errors.InvalidRequest, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.NotFound, grpc.StatusCode.NOT_FOUND),
    (errors.AlreadyExists, grpc.StatusCode.ALREADY_EXISTS),
    (errors.Precondition, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.Busy, grpc.StatusCode.ABORTED),
    (errors.Unsupported, grpc.StatusCode.UNIMPLEMENTED),
    (errors.NoSpace, grpc.StatusCode.RESOURCE_EXHAUSTED),
    # As containerd answers without CRIU; the kubelet's tests know that code and its words.
    (errors.ToolMissing, grpc.StatusCode.UNKNOWN),
    (errors.Unavailable, grpc.StatusCode.UNAVAILABLE),
    (errors.DeadlineExceeded, grpc.StatusCode.DEADLINE_EXCEEDED),
    (errors.Corrupt, grpc.StatusCode.DATA_LOSS),
    (errors.ToolFailed, grpc.StatusCode.INTERNAL),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How a call ends: the code, a sentence for a person, trailing metadata."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: Sequence[tuple[str, str | bytes]] = ()


def status_of(error: Exception, *, request_id: str) -> Status:
    """Return the status that tells a caller of `error`.

    An error of containerd passes unchanged, with its status details; a fault of ours names the
    request, under which the log has the traceback.
    """
    if answer := answer_of(error):
        return Status(
            code=answer.code(),
            details=answer.details() or "",
            trailing_metadata=tuple(answer.trailing_metadata() or ()),
        )
    for kind, code in _TABLE:
        if isinstance(error, kind):
            details = _shown(str(error))
            if code is grpc.StatusCode.INTERNAL:
                details += f" [request {request_id}]"
            return Status(code=code, details=details)
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return Status(
        code=grpc.StatusCode.INTERNAL,
        details=f"crishim failed: {_shown(what)} [request {request_id}; the log has more]",
    )


def answer_of(error: Exception) -> grpc.aio.AioRpcError | None:
    """Return containerd's answer, where that is what has gone wrong."""
    answer = error.__cause__ if isinstance(error, errors.RuntimeRefused) else error
    return answer if isinstance(answer, grpc.aio.AioRpcError) else None


def _shown(text: str) -> str:
    """Return a text that steers no terminal and is UTF-8: names of files in it are a stranger's."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
