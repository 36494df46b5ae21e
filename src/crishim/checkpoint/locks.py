"""One operation on a container at a time; a second one is told so, an exec waits."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from crishim.errors import Busy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crishim.ids import ContainerId


class Locks:
    """Which containers are being dumped or restored, and by what."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[str, asyncio.Event]] = {}

    @contextlib.contextmanager
    def hold(self, container: ContainerId, what: str) -> Iterator[None]:
        """Own a container for the block; raise Busy when somebody else does."""
        if container in self._held:
            raise Busy(f"a {self._held[container][0]} of container {container[:13]} is under way")
        free = asyncio.Event()
        self._held[container] = what, free
        try:
            yield
        finally:
            del self._held[container]
            free.set()

    def busy(self, container: str) -> bool:
        """Return whether something is being done with a container."""
        return container in self._held

    async def wait_free(self, container: str) -> None:
        """Wait until nothing is being done with a container; its caller's deadline bounds it."""
        while held := self._held.get(container):
            await held[1].wait()
