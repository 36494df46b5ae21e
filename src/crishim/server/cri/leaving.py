"""What the methods by which a container or sandbox goes have in common."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeAlias

from crishim._proto.runtime.v1 import api_pb2
from crishim.aio.shield import to_the_end
from crishim.ids import by_prefix

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable

Listed: TypeAlias = api_pb2.Container | api_pb2.PodSandbox
_log = logging.getLogger(__name__)
_ID_DIGITS = 64
"""Of a whole id of containerd's."""


async def whole_id(named: str, listed: Callable[[], Awaitable[Iterable[Listed]]]) -> str:
    """Return the id of which somebody gave the first digits, or what was given if none is known."""
    if len(named) >= _ID_DIGITS:
        return named
    return by_prefix(named, [item.id for item in await listed()]) or named


async def tried(step: Coroutine[Any, Any, object], what: str) -> None:
    """Do to its end what must not keep a call from containerd; a failure is logged.

    What it was about stays on record, and is tried again later.
    """
    try:
        await to_the_end(step)
    except Exception as error:  # noqa: BLE001 - containerd is asked whatever happened here
        _log.exception("%s: %s", what, error)
