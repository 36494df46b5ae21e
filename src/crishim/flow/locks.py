"""One order per container and per sandbox; execs give way to the pause of a dump, and it to them.

A dump or a restore owns its container: a second one is told so at once. Several may be under way in
one sandbox, as far as they do not disturb each other. Whoever stops or removes a container or a
sandbox comes after all of them: it asks each to end, which those do that can still be undone, waits
for them, and nothing begins meanwhile. What a crash has left of a sandbox is put in order before
anything else is done with it (`recovered`).

An exec never fails for a dump: while the container is to be left alone it waits, and the dump waits
for those that run. This module knows no flow and no record on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING

from crishim.errors import Busy, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator

    from crishim.ids import ContainerId, SandboxId

_RECOVERY_WAIT_S = 60.0


class Operation:
    """A dump or a restore under way, as it and those who wait for its end see it."""

    def __init__(
        self, what: str, container: ContainerId, sandbox: SandboxId, *, alone: bool
    ) -> None:
        self.what = what
        self.container = container
        self.sandbox = sandbox
        self.alone = alone
        self.cuts_off = False
        self.asked = False
        """Whether its container or sandbox is to be stopped or removed."""
        self._heard: list[Callable[[], object]] = []

    def ask_to_end(self) -> None:
        """Tell the operation that it is in the way; once is enough."""
        if not self.asked:
            self.asked = True
            for tell in tuple(self._heard):
                tell()

    @contextlib.contextmanager
    def gives_way(self) -> Iterator[None]:
        """Break the block off, by a cancellation of its task, as soon as somebody asks.

        Undo inside the block is broken off too, unless it is shielded (`shield.to_the_end`).
        Raises: Busy: somebody has asked, before the block or in it.
        """
        task = asyncio.current_task()
        assert task is not None
        self.refuse_if_asked()
        before = task.cancelling()
        with self.told(task.cancel):
            try:
                yield
            except asyncio.CancelledError:
                if not self.asked or task.uncancel() > before:
                    raise
            self.refuse_if_asked()

    @contextlib.contextmanager
    def told(self, tell: Callable[[], object]) -> Iterator[None]:
        """Call `tell` when somebody asks the operation to end inside the block."""
        self._heard.append(tell)
        try:
            yield
        finally:
            self._heard.remove(tell)

    def refuse_if_asked(self) -> None:
        """Raise Busy if somebody has asked the operation to end."""
        if self.asked:
            raise Busy(
                f"the {self.what} of container {self.container[:13]} was broken off: it or its pod "
                "is being stopped"
            )


class Recovered:
    """What is not recovered yet: the containers and sandboxes that a crash has left something of.

    By their ids, each until it is in order again; calls for it wait.
    """

    def __init__(self) -> None:
        self._left: set[str] = set()
        self._changed = asyncio.Event()

    def expect(self, ids: Iterable[str]) -> None:
        """Let callers wait for these until they are `done`; before anybody can call."""
        self._left.update(ids)

    def done(self, *ids: str) -> None:
        """Let callers go on with these, whether recovery has succeeded or has given up."""
        self._left.difference_update(ids)
        self._changed.set()

    async def wait(self, *ids: str, timeout_s: float = _RECOVERY_WAIT_S) -> None:
        """Wait until recovery has dealt with containers and sandboxes; at once for most.

        Args: ids: whole, or their first digits.
        Raises: Unavailable: it takes long; a slow restore may still have to come to its end.
        """
        if not self._concerns(ids):
            return
        try:
            async with asyncio.timeout(timeout_s):
                while self._concerns(ids):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise Unavailable(
                "what an earlier daemon left in this pod is still being put in order",
                hint="try again",
            ) from None

    def _concerns(self, ids: Collection[str]) -> bool:
        return any(left.startswith(id) for id in ids if id for left in self._left)


class Locks:
    """Which containers are being dumped or restored, stopped or removed, and which have execs.

    Attributes:
        recovered: what is still to be put in order after a crash.
    """

    def __init__(self) -> None:
        self.recovered = Recovered()
        self._operations: dict[str, Operation] = {}
        self._leaving: Counter[str] = Counter()
        self._owners: dict[str, list[object]] = {}
        self._freed = asyncio.Event()
        self._quiet: dict[str, asyncio.Event] = {}
        self._execs: dict[object, str] = {}
        self._exec_ended = asyncio.Event()
        self._starts: dict[object, str] = {}

    @contextlib.contextmanager
    def hold(
        self, container: ContainerId, what: str, *, sandbox: SandboxId, alone: bool = False
    ) -> Iterator[Operation]:
        """Own a container for the block.

        Args:
            what: in the words of an error, such as "checkpoint".
            alone: no other operation that is to be alone may be under way in the sandbox.
        Raises: Busy: it is being worked on, stopped or removed, or its pod is.
        """
        operation = Operation(what, container, sandbox, alone=alone)
        self._refuse(operation)
        self._operations[container] = operation
        try:
            yield operation
        finally:
            del self._operations[container]
            self._freed.set()

    def _refuse(self, new: Operation) -> None:
        if under_way := self._operations.get(new.container):
            raise Busy(f"a {under_way.what} of container {new.container[:13]} is under way")
        for identity, what in ((new.container, "container"), (new.sandbox, "pod sandbox")):
            if self._leaving[identity]:
                raise Busy(f"{what} {identity[:13]} is being stopped or removed")
        for other in self._in(new.sandbox):
            if other.cuts_off or (other.alone and new.alone):
                raise Busy(
                    f"a {other.what} of container {other.container[:13]} of the same pod is under "
                    "way"
                )

    @contextlib.contextmanager
    def cutting_off(self, operation: Operation) -> Iterator[None]:
        """Let nothing begin in the operation's sandbox for the block, which cuts the pod off.

        Ordinary containers are refused by those who ask `cut_off`.
        Raises: Busy: a restore is under way there.
        """
        for other in self._in(operation.sandbox):
            if other is not operation and other.alone:
                raise Busy(f"a {other.what} is under way in the same pod")
        operation.cuts_off = True
        try:
            yield
        finally:
            operation.cuts_off = False

    def cut_off(self, sandbox: str) -> bool:
        """Return whether an operation is about to cut a pod off."""
        return any(operation.cuts_off for operation in self._in(sandbox))

    @contextlib.contextmanager
    def starting(self, container: str) -> Iterator[None]:
        """Count the block as an ordinary container's start; enter it once `cut_off` says no.

        Nothing may be awaited between the two. One that is refused never counts: its pod would be
        left alone for nothing.
        Args: container: an id or the first digits of one, as the caller gave it.
        """
        with _counted(self._starts, container):
            yield

    def starts(self) -> frozenset[str]:
        """Return what containerd may be busy starting, which its answers do not tell yet.

        Ask before containerd is asked: a start that ends meanwhile is in either of the answers.
        """
        return frozenset(self._starts.values())

    @property
    def any_cut_off(self) -> bool:
        """Whether any pod is about to be cut off."""
        return any(operation.cuts_off for operation in self._operations.values())

    def busy(self, container: str) -> bool:
        """Return whether something is being done with a container."""
        return container in self._operations

    def busy_in(self, sandbox: str) -> bool:
        """Return whether something is being done with a sandbox, or in it."""
        return bool(self._in(sandbox)) or self._leaving[sandbox] > 0

    @contextlib.asynccontextmanager
    async def leaving(self, container: str) -> AsyncIterator[None]:
        """Stop or remove a container in the block, after all that is being done with it.

        What can still be undone is asked to end. Several callers may be inside at a time.
        Args: container: the whole id. On cancel: it is not waited any longer.
        """
        with self._leave(container):
            await self._ended(lambda: filter(None, [self._operations.get(container)]))
            yield

    @contextlib.asynccontextmanager
    async def whole(self, sandbox: str) -> AsyncIterator[None]:
        """Own a whole sandbox in the block, after all that is being done in it, and alone.

        What can still be undone is asked to end; nothing begins meanwhile.
        Args: sandbox: the whole id. On cancel: it is not waited any longer.
        """
        me = object()
        owners = self._owners.setdefault(sandbox, [])
        owners.append(me)
        try:
            with self._leave(sandbox):
                await self._ended(lambda: self._in(sandbox))
                while owners[0] is not me:
                    self._freed.clear()
                    await self._freed.wait()
                yield
        finally:
            owners.remove(me)
            if not owners:
                del self._owners[sandbox]
            self._freed.set()

    @contextlib.contextmanager
    def _leave(self, identity: str) -> Iterator[None]:
        self._leaving[identity] += 1
        try:
            yield
        finally:
            self._leaving[identity] -= 1
            self._leaving += Counter()  # drops what is at 0

    async def _ended(self, operations: Callable[[], Iterable[Operation]]) -> None:
        while left := list(operations()):
            for operation in left:
                operation.ask_to_end()
            self._freed.clear()
            await self._freed.wait()

    def _in(self, sandbox: str) -> list[Operation]:
        return [one for one in self._operations.values() if one.sandbox == sandbox]

    @contextlib.contextmanager
    def no_execs(self, container: ContainerId) -> Iterator[None]:
        """Let no exec begin in a container during the block."""
        over = self._quiet[container] = asyncio.Event()
        try:
            yield
        finally:
            del self._quiet[container]
            over.set()

    @contextlib.contextmanager
    def exec(self, container: str) -> Iterator[None]:
        """Count the block as an exec; call it right after `exec_may_begin` has returned.

        Args: container: an id or the first digits of one, as the caller gave it.
        """
        try:
            with _counted(self._execs, container):
                yield
        finally:
            self._exec_ended.set()

    async def exec_may_begin(self, container: str) -> None:
        """Wait until execs may begin in a container; the caller's deadline bounds it."""
        while over := next((e for id, e in self._quiet.items() if id.startswith(container)), None):
            await over.wait()

    def execs(self, container: ContainerId) -> int:
        """Return how many execs are under way in a container."""
        return sum(container.startswith(named) for named in self._execs.values())

    async def execs_ended(self, container: ContainerId, *, timeout_s: float) -> None:
        """Wait until no exec is under way in a container, or the time is up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.execs(container):
                    self._exec_ended.clear()
                    await self._exec_ended.wait()


@contextlib.contextmanager
def _counted(among: dict[object, str], named: str) -> Iterator[None]:
    """Have the block stand among others; the same name may stand there more than once."""
    key = object()
    among[key] = named
    try:
        yield
    finally:
        del among[key]
