"""The undo of a flow: steps that are run backwards, each of them tried whatever becomes of others.

An error of the flow reaches its caller; an error of an undo step reaches the log. A cancellation
that comes while the undo runs is heard after it. This module knows no flow.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from crishim.aio.shield import to_the_end

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

_log = logging.getLogger(__name__)
_P = ParamSpec("_P")
_T = TypeVar("_T")


class Undo(contextlib.AsyncExitStack):
    """An exit stack whose callbacks never fail and never hide the error that called for them."""

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> bool | None:
        """Run all steps to their end, also if the caller is cancelled meanwhile."""
        return await to_the_end(super().__aexit__(kind, error, traceback))

    def push_async_callback(
        self, callback: Callable[_P, Awaitable[_T]], /, *args: _P.args, **kwds: _P.kwargs
    ) -> Callable[_P, Awaitable[_T]]:
        """Run a coroutine function as a step of the undo; its error is logged."""

        async def tried() -> None:
            try:
                await callback(*args, **kwds)
            except Exception:  # noqa: BLE001 - the other steps must be tried
                _complain(callback, args)

        super().push_async_callback(tried)
        return callback

    def callback(
        self, callback: Callable[_P, _T], /, *args: _P.args, **kwds: _P.kwargs
    ) -> Callable[_P, _T]:
        """Run a function that does not block as a step of the undo; its error is logged."""

        def tried() -> None:
            try:
                callback(*args, **kwds)
            except Exception:  # noqa: BLE001 - the other steps must be tried
                _complain(callback, args)

        super().callback(tried)
        return callback


def _complain(callback: object, args: tuple[object, ...]) -> None:
    names = [getattr(step, "__qualname__", "") for step in (callback, *args)]
    _log.exception("a step of the undo failed: %s", " ".join(filter(None, names)))
