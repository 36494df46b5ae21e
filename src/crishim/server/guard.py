"""What stands round every call: counting, refusing, naming in the log, turning errors to status.

It knows no method and no service. `Calls` is shared by everything that serves, so that a stop knows
what to wait for; `Guard` wraps the handlers that are ours (the relay passes errors on by itself).
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
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

_log = logging.getLogger(__name__)

Request = TypeVar("Request")
Answer = TypeVar("Answer")
Servicer = TypeVar("Servicer")
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Unary: TypeAlias = Callable[[Request, Context], Awaitable[Answer]]
Stream: TypeAlias = Callable[[Request, Context], AsyncIterator[Answer]]

STOPPING = "crishim is stopping"
_REFUSALS = (AlreadyExists, Busy, InvalidRequest, NotFound, Precondition, Unavailable, Unsupported)
"""What a caller asked for cannot be, and it was told so: nothing of ours has failed."""


class Calls:
    """The calls under way.

    Three kinds meet a stop differently: ordinary ones get a grace; endless streams are ended at
    once, because they would use up any grace and can be opened again; operations that must finish
    (a dump cannot be broken off) are waited for without limit.
    """

    def __init__(self) -> None:
        self.stopping = False
        self._running = 0
        self._must_finish: list[str] = []
        self._at_stop: set[Callable[[], object]] = set()
        self._afterwards: set[asyncio.Future[None]] = set()
        self._changed = asyncio.Event()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Count one call; raise Unavailable if the daemon is stopping."""
        if self.stopping:
            raise Unavailable(STOPPING)
        self.begin()
        try:
            yield
        finally:
            self.end()

    def begin(self) -> None:
        """Count one call, which `end` must end; `running` for those who can afford it."""
        self._running += 1

    def end(self) -> None:
        """Count a call off."""
        self._running -= 1
        if self.stopping:
            self._changed.set()

    @contextlib.contextmanager
    def must_finish(self, what: str) -> Iterator[None]:
        """Keep the daemon from ending before the block does; `what` tells people why it waits."""
        self._must_finish.append(what)
        try:
            yield
        finally:
            self._must_finish.remove(what)
            self._changed.set()

    def afterwards(self, what: str, work: Coroutine[Any, Any, object]) -> None:
        """Do something once the caller has its answer; a failure of it is only logged."""

        async def run() -> None:
            try:
                with self.must_finish(what):
                    await work
            except Exception as error:  # noqa: BLE001 - nobody is left to tell
                _log.warning("%s: %s", what, error)

        task = asyncio.ensure_future(run())
        self._afterwards.add(task)
        task.add_done_callback(self._afterwards.discard)

    @contextlib.contextmanager
    def ended_by_stop(self, end: Callable[[], object]) -> Iterator[None]:
        """Call `end` if a stop begins inside the block."""
        self._at_stop.add(end)
        try:
            yield
        finally:
            self._at_stop.discard(end)

    def stop(self) -> None:
        """Refuse new calls from now on and end the endless streams. May be called twice."""
        self.stopping = True
        for end in tuple(self._at_stop):
            end()

    @property
    def unfinished(self) -> tuple[str, ...]:
        """What must finish and has not."""
        return tuple(self._must_finish)

    async def until_idle(self) -> None:
        """Wait until no call is under way."""
        await self._until(lambda: self._running == 0)

    async def until_finished(self) -> None:
        """Wait until nothing is left that must finish."""
        await self._until(lambda: not self._must_finish)

    async def _until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            self._changed.clear()
            await self._changed.wait()


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
