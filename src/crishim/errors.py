"""The errors that crishim raises on purpose: one tree of our own, and one of what containerd says.

A class exists only where a caller acts differently on it; everything else is a field. This module
must never know gRPC: `server/status.py` holds the one table from these classes to status codes,
and `containerd/service.py` the one from codes to `RuntimeRefused`.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class CrishimError(Exception):
    """Base of all our errors: what went wrong, the evidence, and how to mend it.

    Args:
        brief: one sentence for the person who made the call.
        details: evidence, such as the last lines of a tool's log; may span lines.
        hint: what to do about it.

    Attributes:
        final: whether the same call is known to end so again, however often it is repeated. Only
            what was found in the call's own objects is: a disk, a registry or a runtime that
            refuses now may not refuse later.
    """

    final = False

    def __init__(self, brief: str, *, details: str = "", hint: str = "") -> None:
        super().__init__(brief)
        self.brief = brief
        self.details = details
        self.hint = hint

    def __str__(self) -> str:
        text = self.brief
        if self.details:
            text += f": {self.details}"
        if self.hint:
            text += f" ({self.hint})"
        return text


class InvalidRequest(CrishimError):
    """A malformed id, path, option or configuration."""


class NotFound(CrishimError):
    """The container, sandbox or checkpoint named by the caller does not exist."""


class AlreadyExists(CrishimError):
    """Something of that name is already there."""


class Precondition(CrishimError):
    """A state (container, pod, node, checkpoint) forbids the call; a retry alone will not help."""


class Busy(CrishimError):
    """The object is being worked on, stopped or removed; the whole call may be retried."""


class Unsupported(CrishimError):
    """What is asked for is of a kind that cannot be dumped or restored so; no retry helps."""

    final = True


class NoSpace(CrishimError):
    """Disk, memory or a bounded queue is full."""


class ToolMissing(CrishimError):
    """A program that everything depends on is missing or too old."""


class Unavailable(CrishimError):
    """containerd is not reachable, or we are starting or stopping."""


class DeadlineExceeded(CrishimError):
    """Our own deadline for a phase ran out; the message names the phase."""


class Corrupt(CrishimError):
    """Stored data does not match its digest or its format."""

    final = True


class ToolFailed(CrishimError):
    """An external program ended with an error.

    Args:
        tool: the program's name, for instance "runc".
        exit_status: its exit status, or minus the signal that ended it.
        log_path: the whole log, kept for the operator; "" if there is none.
    """

    def __init__(
        self, tool: str, exit_status: int, *, details: str = "", hint: str = "", log_path: str = ""
    ) -> None:
        ending = f"signal {-exit_status}" if exit_status < 0 else f"exit status {exit_status}"
        if log_path:
            hint = f"{hint}; " * bool(hint) + f"whole log: {log_path}"
        super().__init__(f"{tool} failed with {ending}", details=details, hint=hint)
        self.tool = tool
        self.exit_status = exit_status
        self.log_path = log_path


class RuntimeRefused(Exception):
    """containerd has refused a call, does not answer, or went away meanwhile.

    No CrishimError, because none of this is ours: a caller hears containerd's own answer, which is
    the cause of this error. What kind it is decides, never its text.

    Args:
        text: all that is known of it, for the log.
        details: containerd's own words, for people.
    """

    def __init__(self, text: str, *, details: str = "") -> None:
        super().__init__(text)
        self.details = details


class RuntimeNotFound(RuntimeRefused):
    """containerd knows no such object."""


class RuntimeAlreadyExists(RuntimeRefused):
    """containerd has an object of that name."""


class RuntimeUnavailable(RuntimeRefused):
    """containerd is not there, or it is starting or stopping."""


@contextlib.contextmanager
def final_refusals() -> Iterator[None]:
    """Mark what the block refuses as final: it compares what will be the same at any later time."""
    try:
        yield
    except (Precondition, NotFound) as error:
        error.final = True
        raise
