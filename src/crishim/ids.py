"""Names that must not mix, each built by one function that validates.

A value of these types came through its function and is safe as a single path component.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NewType

from crishim.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

ContainerId = NewType("ContainerId", str)
SandboxId = NewType("SandboxId", str)
CheckpointName = NewType("CheckpointName", str)

_RUNTIME_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_CHECKPOINT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:+-]{0,200}")


def container_id(text: str) -> ContainerId:
    """Return `text` as a container id; raise InvalidRequest if it cannot be one."""
    return ContainerId(_checked(text, pattern=_RUNTIME_ID, what="container id"))


def sandbox_id(text: str) -> SandboxId:
    """Return `text` as a pod sandbox id; raise InvalidRequest if it cannot be one."""
    return SandboxId(_checked(text, pattern=_RUNTIME_ID, what="pod sandbox id"))


def checkpoint_name(text: str) -> CheckpointName:
    """Return `text` as the name of a stored checkpoint; raise InvalidRequest otherwise."""
    return CheckpointName(_checked(text, pattern=_CHECKPOINT_NAME, what="checkpoint name"))


def _checked(text: str, *, pattern: re.Pattern[str], what: str) -> str:
    if not pattern.fullmatch(text) or ".." in text:
        raise InvalidRequest(f"{text[:80]!r} is not a {what}")
    return text


def by_prefix(text: str, known: Iterable[str]) -> str | None:
    """Return the one known id that begins with `text`, as CRI runtimes take shortened ids.

    Returns: None for no match or several.
    """
    if not text:
        return None
    matches = [identity for identity in known if identity.startswith(text)]
    return matches[0] if len(matches) == 1 else None
