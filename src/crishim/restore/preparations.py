"""The part of a restore that belongs to a pod and an archive, not to one container.

Mounting or unpacking CRIU's images and comparing every digest takes minutes for a large archive,
and a kubelet gives a create two. So for a kubelet's pod this goes on when its caller has gone, and
the caller's next attempt, with another container, joins it. The result waits in a directory of its
own until a container takes it; what nobody takes is removed after a while, and so is what belongs
to a pod that is stopped. How many work at a time is bounded by turns.

The writable layer is not part of it: that belongs into one container's snapshot.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from crishim.aio.lanes import Lane
from crishim.aio.shield import in_thread, made_in_thread, to_the_end
from crishim.archive.reader import ArchiveReader
from crishim.errors import Busy, CrishimError, DeadlineExceeded
from crishim.flow.phases import Phases
from crishim.kernel import files, tree
from crishim.restore.images import image_path, remove_images, verify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from crishim.flow.turns import Turns
    from crishim.paths import Paths
    from crishim.restore.images import ImageDirectories

_log = logging.getLogger(__name__)
_MOST = 64
_LONGEST_S = 3600.0
_KEPT_S = 600.0
"""A kubelet that backs off comes again within five minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimant:
    """Who may come again for the same work: a container of a kubelet's pod.

    Attributes:
        sandbox: with whose stop the work ends, if no other one of the pod has come for it since.
    """

    pod_uid: str
    container: str
    sandbox: str


class _Key(NamedTuple):
    pod_uid: str
    container: str
    archive: tuple[int, ...]


class Prepared:
    """CRIU's images in a directory, verified, until a container takes them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.taken = False

    async def take(self, target: Path) -> Path:
        """Move them to a path that does not exist; return where the images are then.

        On cancel: they may have been moved; they are the target's then.
        """

        def move() -> None:
            os.rename(self.directory, target)
            self.taken = True

        await in_thread(move)
        return image_path(target)

    async def remove(self) -> None:
        """Remove what nobody has taken."""
        if not self.taken:
            await in_thread(remove_images, self.directory, lane=Lane.PAUSE)
            await in_thread(tree.remove_tree, self.directory, lane=Lane.PAUSE)


class _Shared:
    """Work that goes on without its callers."""

    def __init__(self, prepared: Prepared, claimant: Claimant) -> None:
        self.prepared = prepared
        self.claimant = claimant
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None
        self._users = 0
        self._told = False
        self._changed = asyncio.Event()

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Keep the result for the block at least."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            self._changed.set()

    async def wait(self, timeout_s: float | None) -> None:
        """Wait for the work; raise what it raised."""
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(self.done)
        except TimeoutError:
            raise DeadlineExceeded(
                "the checkpoint is still being read", hint="try again: the work goes on"
            ) from None
        finally:
            self._told = self.done.done() and self.done.exception() is not None

    async def left_alone(self) -> None:
        """Return once a container has it, its failure was told, or nobody comes for a while."""
        while not self.prepared.taken and not self._told:
            self._changed.clear()
            try:
                async with asyncio.timeout(None if self._users else _KEPT_S):
                    await self._changed.wait()
            except TimeoutError:
                return


class Preparations:
    """Makes archives ready for restores; one object serves the daemon.

    Args: turns: how many at a time.
    """

    def __init__(self, paths: Paths, images: ImageDirectories, turns: Turns) -> None:
        self._paths = paths
        self._images = images
        self._turns = turns
        self._shared: dict[_Key, _Shared] = {}
        self._live: set[Path] = set()

    @contextlib.asynccontextmanager
    async def ready(
        self, archive: ArchiveReader, claimant: Claimant | None, phases: Phases
    ) -> AsyncIterator[Prepared]:
        """Wait until an archive's images are ready and every entry is verified.

        Args: claimant: None where nobody comes again: the work ends with its caller.
        Raises: Corrupt, NoSpace: as the reader does. DeadlineExceeded: try again.
        """
        if claimant is None or len(self._shared) >= _MOST:
            async with self._directory() as prepared:
                await self._fill(prepared, archive, phases)
                yield prepared
            return
        key = _Key(claimant.pod_uid, claimant.container, _identity(archive))
        shared = self._shared.get(key) or self._begin(key, claimant, archive.path)
        shared.claimant = claimant  # the pod may have another sandbox by now
        with shared.used():
            with phases.step("images"):
                await shared.wait(phases.left_s)
            yield shared.prepared

    def drop(self, sandbox: str) -> None:
        """End what goes on for the containers of a sandbox that is stopped."""
        for shared in self._shared.values():
            if shared.claimant.sandbox == sandbox and shared.task is not None:
                shared.task.cancel()

    async def sweep(self) -> None:
        """Remove what an earlier daemon has left."""
        for path in files.entries(self._paths.preparations):
            if path not in self._live:
                await _removed(Prepared(path))

    def _begin(self, key: _Key, claimant: Claimant, path: Path) -> _Shared:
        shared = self._shared[key] = _Shared(Prepared(self._new_path()), claimant)
        work = self._go_on(key, shared, path)
        shared.task = asyncio.create_task(work, name=f"preparation for {claimant.container}")
        return shared

    async def _go_on(self, key: _Key, shared: _Shared, path: Path) -> None:
        """Work, and keep the result or the failure for those who come again."""
        async with self._directory(shared.prepared):
            try:
                async with asyncio.timeout(_LONGEST_S), contextlib.AsyncExitStack() as undo:
                    archive = await made_in_thread(
                        undo, lambda: ArchiveReader.open(path), ArchiveReader.close
                    )
                    if _identity(archive) != key.archive:
                        raise Busy(f"{path} was replaced meanwhile", hint="try again")
                    await self._fill(shared.prepared, archive, Phases())
                shared.done.set_result(None)
                await shared.left_alone()
            except TimeoutError:
                shared.done.set_exception(DeadlineExceeded(f"{path} cannot be read in an hour"))
                await shared.left_alone()
            except (CrishimError, OSError) as error:
                shared.done.set_exception(error)
                await shared.left_alone()
            finally:
                del self._shared[key]
                if not shared.done.done():
                    shared.done.set_exception(Busy("the pod is being stopped"))
                shared.done.exception()  # nobody may be left to hear of it

    async def _fill(self, prepared: Prepared, archive: ArchiveReader, phases: Phases) -> None:
        async with self._turns.take(phases):
            with phases.step("images"):
                images = await self._images.make(archive, prepared.directory)
            with phases.step("verify"):
                await verify(archive, images)

    @contextlib.asynccontextmanager
    async def _directory(self, prepared: Prepared | None = None) -> AsyncIterator[Prepared]:
        """Own a directory for the block; what was not taken from it is removed."""
        prepared = prepared or Prepared(self._new_path())
        self._live.add(prepared.directory)
        try:
            parent = self._paths.preparations
            await in_thread(lambda: parent.mkdir(mode=0o700, parents=True, exist_ok=True))
            yield prepared
        finally:
            await to_the_end(_removed(prepared))
            self._live.discard(prepared.directory)

    def _new_path(self) -> Path:
        return self._paths.preparations / secrets.token_hex(8)


async def _removed(prepared: Prepared) -> None:
    """Remove what nobody has taken; what cannot go now is for the next `sweep`."""
    try:
        await prepared.remove()
    except (CrishimError, OSError) as error:
        _log.warning("%s stays for now: %s", prepared.directory, error)


def _identity(archive: ArchiveReader) -> tuple[int, ...]:
    """Return what tells an archive's file, and its content, from any other."""
    status = os.fstat(archive.fd)
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
