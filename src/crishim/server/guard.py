"""What stands round every call of ours: counting, naming in the log, turning errors to status.

It knows no method and no service. What the relay merely passes on does without it.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import grpc

from crishim import log
from crishim.errors import (
    AlreadyExists,
    Busy,
    CrishimError,
    InvalidRequest,
    NotFound,
    Precondition,
    Unavailable,
    Unsupported,
)
from crishim.server.status import answer_of, status_of

if TYPE_CHECKING:
    from google.protobuf.descriptor import ServiceDescriptor

    from crishim.server.calls import Calls

_log = logging.getLogger(__name__)

Request = TypeVar("Request")
Answer = TypeVar("Answer")
Servicer = TypeVar("Servicer")
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Unary: TypeAlias = Callable[[Request, Context], Awaitable[Answer]]
Stream: TypeAlias = Callable[[Request, Context], AsyncIterator[Answer]]

_REFUSALS = (AlreadyExists, Busy, InvalidRequest, NotFound, Precondition, Unavailable, Unsupported)
"""What a caller asked for cannot be, and it was told so: nothing of ours has failed."""


class Guard:
    """Wraps handlers that are ours: overrides of CRI methods, and our own services."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def unary(self, name: str, behaviour: Unary[Request, Answer]) -> Unary[Request, Answer]:
        """Return `behaviour` of a method with one answer, guarded; `name` stands in the log."""

        async def guarded(request: Request, context: Context) -> Answer:
            async with self._guarding(name, context):
                return await behaviour(request, context)

        return guarded

    def stream(
        self, name: str, behaviour: Stream[Request, Answer]
    ) -> Callable[[Request, Context], Awaitable[None]]:
        """Return `behaviour` of a method with many answers, guarded and writing them itself.

        Not a generator: gRPC drops a generator that waits at its `yield` when the caller goes away,
        and its clean-up would run at some later time in another context.
        """

        async def guarded(request: Request, context: Context) -> None:
            async with (
                self._guarding(name, context),
                # Every behaviour is a generator, which its annotation need not say.
                contextlib.aclosing(behaviour(request, context)) as answers,  # type: ignore[type-var]
            ):
                async for answer in answers:
                    await context.write(answer)

        return guarded

    def servicer(self, servicer: Servicer, service: ServiceDescriptor) -> Servicer:
        """Guard every method of a servicer that is about to be added to a server; return it."""
        for method in service.methods:
            behaviour = getattr(servicer, method.name)
            wrap = self.stream if inspect.isasyncgenfunction(behaviour) else self.unary
            setattr(servicer, method.name, wrap(method.name, behaviour))
        return servicer

    @contextlib.asynccontextmanager
    async def _guarding(self, name: str, context: Context) -> AsyncIterator[None]:
        request_id = secrets.token_hex(4)
        with log.context(f"{request_id} {name}"):
            try:
                with self._calls.running():
                    yield
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001 - the boundary of every request
                status = status_of(error, request_id=request_id)
                _report(error, status.details)
                await context.abort(status.code, status.details, status.trailing_metadata)


def _report(error: Exception, details: str) -> None:
    if answer := answer_of(error):
        # containerd has logged it; kubelet asks for objects that are gone all the time.
        _log.debug("containerd answered %s: %s", answer.code().name, details)
    elif isinstance(error, _REFUSALS):
        _log.warning("refused: %s", details)
    elif isinstance(error, CrishimError):
        _log.error("%s", details)
    else:
        _log.error("%s", details, exc_info=error)
