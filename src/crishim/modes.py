"""The words of requests, annotations, plans and manifests, each with its meaning in one place.

Pure: values only. A word that is none of these is refused where it comes in, by the enum itself.
"""

from __future__ import annotations

from enum import StrEnum


class TcpMode(StrEnum):
    """What becomes of TCP connections.

    ESTABLISHED: they go on. CLOSE: their sockets are there, closed. REFUSE: a dump or a restore
    that would meet an open one is refused.
    """

    ESTABLISHED = "established"
    CLOSE = "close"
    REFUSE = "refuse"


class AddressMode(StrEnum):
    """Which address the restored pod has: the old pod's, or the one that CNI gave it."""

    KEEP = "keep"
    NEW = "new"


class OnFailure(StrEnum):
    """What follows a restore that failed for good: the same error again, or a cold start."""

    FAIL = "fail"
    COLD = "cold"
