"""What a checkpoint or a restore does not keep, said aloud: nothing is lost in silence.

Whoever knows of a thing that CRIU drops, and that is not put back, tells it as a `Loss`:
`Phases.lose` takes it. From there it goes into the daemon's log, the answer of the call and the
manifest of the archive, so that `crishim inspect` and every restore tell it again. A loss stops
nothing; what must not be lost is refused before the pause instead.

This module must never know how a loss is found, nor tar, files or messages.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from crishim import strictjson

_log = logging.getLogger(__name__)

_OF_A_KIND_MAX = 16
_TEXT_CHARS_MAX = 600


class Kind(StrEnum):
    """What sort of thing is lost; stable, and for programs."""

    SOCKET_QUEUE = "socket-queue"
    SOCKET_OPTION = "socket-option"
    MEMBERSHIP = "membership"
    AFFINITY = "affinity"
    SCHEDULING = "scheduling"
    MEMORY_POLICY = "memory-policy"
    CONFINEMENT = "confinement"
    FILE_LOCK = "file-lock"
    CRIU = "criu"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """One thing that is not kept.

    Attributes:
        pid: of the process that loses it, as the container's pid namespace counts; 0 for none.
        what: one sentence for people, without a full stop; it names the process.
        cure: what to do about it; "" where nothing helps.
    """

    kind: Kind
    what: str
    pid: int = 0
    cure: str = ""

    def __str__(self) -> str:
        """Return what is shown to people on one line."""
        return f"{self.what} ({self.cure})" if self.cure else self.what


def bounded(losses: Iterable[Loss]) -> tuple[Loss, ...]:
    """Return each loss once, in order, and of each kind no more than people read.

    A container can make as many of a kind as it likes; beyond a bound they are counted only.
    """
    found: dict[Kind, list[Loss]] = {}
    for loss in dict.fromkeys(losses):
        found.setdefault(loss.kind, []).append(_shown(loss))
    answer: list[Loss] = []
    for kind, items in found.items():
        answer += items[:_OF_A_KIND_MAX]
        if (more := len(items) - _OF_A_KIND_MAX) > 0:
            answer.append(Loss(kind=kind, what=f"{more} more of the kind {kind}"))
    return tuple(answer)


def log(found: Iterable[Loss], *, subject: str) -> None:
    """Write losses into the daemon's log.

    Args: subject: whose they are, such as "checkpoint of 4f2a9c".
    """
    for loss in found:
        _log.warning("%s: not kept: %s", subject, loss)


def decode(items: Iterable[strictjson.Reader]) -> tuple[Loss, ...]:
    """Read losses that anybody may have written; a kind of a newer writer counts as OTHER.

    Raises: Corrupt: they are not losses.
    """
    return tuple(
        Loss(
            kind=_kind(item.text("kind")),
            pid=item.whole("pid"),
            what=item.text("what"),
            cure=item.text("cure"),
        )
        for item in items
    )


def _kind(word: str) -> Kind:
    return Kind(word) if word in set(Kind) else Kind.OTHER


def _shown(loss: Loss) -> Loss:
    """Return a loss whose text is short and steers no terminal: names in it are a stranger's."""
    what = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in loss.what)
    if len(what) > _TEXT_CHARS_MAX:
        what = what[:_TEXT_CHARS_MAX] + " ..."
    return dataclasses.replace(loss, what=what)
