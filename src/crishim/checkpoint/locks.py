"""One operation on a container at a time; execs give way to the pause of a dump, and it to them.

A second dump or restore is told so at once. An exec never fails for a dump: while the container is
to be left alone it waits, and the dump waits for those that run.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from crishim.errors import Busy
from crishim.ids import by_prefix

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crishim.ids import ContainerId


class Locks:
    """Which containers are being dumped or restored, and which have execs under way."""

    def __init__(self) -> None:
        self._held: dict[str, str] = {}
        self._freed = asyncio.Event()
        self._quiet: dict[str, asyncio.Event] = {}
        self._execs: dict[object, str] = {}
        self._exec_ended = asyncio.Event()

    @contextlib.contextmanager
    def hold(self, container: ContainerId, what: str) -> Iterator[None]:
        """Own a container for the block; raise Busy when somebody else does."""
        if container in self._held:
            raise Busy(f"a {self._held[container]} of container {container[:13]} is under way")
        self._held[container] = what
        try:
            yield
        finally:
            del self._held[container]
            self._freed.set()

    def busy(self, container: str) -> bool:
        """Return whether something is being done with a container."""
        return container in self._held

    async def until_free(self, container: str) -> None:
        """Wait until nothing is being done with a container; the caller's deadline bounds it.

        Args: container: an id or the first digits of one.
        """
        while by_prefix(container, self._held) is not None:
            self._freed.clear()
            await self._freed.wait()

    @contextlib.contextmanager
    def quiet(self, container: ContainerId) -> Iterator[None]:
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
        key = object()
        self._execs[key] = container
        try:
            yield
        finally:
            del self._execs[key]
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
