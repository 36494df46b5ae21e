"""Put in order what an earlier daemon left in the middle of something, and look after it for good.

The records on disk say what was meant: see `sandbox.held`, `sandbox.addresses`, `restore.plans` and
`restore.exchange`. They are read before the socket serves (`load`), so that no call behaves as if
nothing was held; nothing on disk keeps the daemon from starting. Then, in the background, `begin`
lets go on what may go on, `run` does what needs containerd, and `tend` is repeated. Calls
for the containers and sandboxes concerned wait meanwhile (`Locks.recovered`), each until its own
sandbox has been dealt with.

Every piece is on its own: one that fails or takes its time costs the others nothing, and `tend`
tries it again. A runc or a CRIU that does not end is waited for a moment only, at each attempt; the
calls for its own container and sandbox wait until it has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from crishim.aio.shield import in_thread, to_the_end
from crishim.errors import Corrupt, Unavailable
from crishim.housekeeping import wrappers
from crishim.housekeeping.abandoned import Abandoned
from crishim.housekeeping.attempts import Attempts
from crishim.housekeeping.halfrestored import HalfRestored
from crishim.ids import SandboxId, sandbox_id
from crishim.kernel import atomic, files
from crishim.network import address, hold, neighbours, strays
from crishim.restore import exchange, plans
from crishim.restore.settle import clear_mounts, settled
from crishim.tools.stillatwork import StillAtWork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from crishim.container.resolve import Resolver
    from crishim.containerd.cri import Cri
    from crishim.containerd.records import Records
    from crishim.flow.locks import Locks
    from crishim.network.hold import HoldRecord
    from crishim.paths import Paths
    from crishim.restore.leftovers import Leftovers
    from crishim.restore.revive import Reviver
    from crishim.sandbox.addresses import PreservedAddresses
    from crishim.sandbox.held import HeldSandboxes
    from crishim.store.pins import Pins

_log = logging.getLogger(__name__)
_TOOLS_S = 5.0
"""How long a start waits for a tool or a guardian of an earlier daemon, before it goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """The clean-up after a crash or a restart, and what is tended to later."""

    paths: Paths
    cri: Cri
    records: Records
    held: HeldSandboxes
    addresses: PreservedAddresses
    resolver: Resolver
    leftovers: Leftovers
    reviver: Reviver
    pins: Pins
    locks: Locks
    connections_wait_s: float
    _unsettled: dict[SandboxId, list[Path]] = field(default_factory=dict)
    _expected: set[str] = field(default_factory=set)
    _at_work: dict[Path | SandboxId, set[str]] = field(default_factory=dict)
    _pieces: Attempts = field(default_factory=Attempts)

    @property
    def restless(self) -> bool:
        """Whether something failed that another attempt may mend soon."""
        return self._pieces.failing or bool(self.addresses.records.doubtful)

    def load(self) -> None:
        """Read the records on disk, before anybody can call; never fails."""
        for what, step in self._before_calls():
            try:
                step()
            except Exception:  # noqa: BLE001 - a daemon that does not start helps nobody
                _log.exception("start: %s", what)
        self._expected.update(self._left_behind())
        self.locks.recovered.expect(self._expected)

    def _before_calls(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yield what must not happen later: whoever can call also writes, and holds pods."""
        yield "addresses of pods", self.addresses.records.load
        yield "stopped containers", self.held.records.load
        yield "neighbours of held pods", self._neighbours
        directories = [self.paths.held, self.paths.sandboxes]
        for several in (self.paths.restores, self.paths.restored):
            with contextlib.suppress(OSError):  # the next start may look
                directories += files.entries(several)
        for directory in directories:
            yield f"half-written files in {directory}", partial(atomic.sweep_unfinished, directory)

    def _neighbours(self) -> None:
        """Have the node ask again for pods that nobody holds; one may be held by what is unread."""
        if self.held.records.loaded and not self.held.records.unreadable:
            neighbours.sweep(keep=self.held.records.fixed())

    def _left_behind(self) -> set[str]:
        """Return the ids of all containers and sandboxes that something is known of."""
        ids: set[str] = {*self.held.records.sandboxes(), *self.addresses.records.sandboxes()}
        ids |= {item.id for _, item in self.held.records.containers()}
        with contextlib.suppress(OSError):  # whoever acts on them says so
            ids |= {work.name for work in self._abandoned.directories()}
        with contextlib.suppress(OSError):
            for directory in self._restores():
                ids.add(directory.name)
                with contextlib.suppress(Corrupt, OSError):  # whoever acts on it says why it cannot
                    plan = plans.read(directory)
                    ids |= {plan.sandbox} if plan is not None else set()
        return ids

    def _restores(self) -> list[Path]:
        """Return the directories of restores; raise OSError if nobody can tell."""
        return [path for path in files.entries(self.paths.restores) if path.is_dir()]

    @property
    def _half_restored(self) -> HalfRestored:
        return HalfRestored(
            cri=self.cri, records=self.records, resolver=self.resolver, locks=self.locks
        )

    @property
    def _abandoned(self) -> Abandoned:
        return Abandoned(paths=self.paths, cri=self.cri, held=self.held)

    async def begin(self) -> None:
        """Do at once what needs no containerd: let go on what may go on, and clear its files."""
        await self._pieces.attempt(self._dumps(), "dumps that were left")
        await self._pieces.until_done(self._abandoned.partials, "half archives")

    async def _dumps(self) -> None:
        """Look at each dump that was left; at none where nobody can list what is at work on one."""
        await self._pieces.attempt(self._loaded(), "records on disk")
        works = self._works()
        with_files = {work.name for work in works}
        stopped = self.held.records.containers()
        without = [record.sandbox for record, item in stopped if item.id not in with_files]
        await asyncio.gather(
            *(self._decide(sandbox) for sandbox in dict.fromkeys(without)),
            *(self._dump(work, wait_s=_TOOLS_S) for work in works),
        )

    async def run(self) -> None:
        """Finish or undo what was begun; needs containerd.

        Raises: RuntimeRefused, OSError: containerd or the disk does not tell what there is;
            to be called again.
        """
        await self._pieces.attempt(self._loaded(), "records on disk")
        works = self._works()
        for directory in self._restores():
            completed = partial(exchange.recover, directory, records=self.records)
            await self._pieces.until_done(completed, f"record of container {directory.name[:13]}")
        self._unsettled.update(await self._by_sandbox())
        self._may_go_on(self._expected - self._still_left())
        async with asyncio.TaskGroup() as group:
            for sandbox in {*self.held.records.sandboxes(), *self._unsettled}:
                group.create_task(self._deal_with(sandbox))
            for work in works:
                if self.held.records.of_container(work.name) is None:  # otherwise it is `_finish`'s
                    group.create_task(self._deal_with_dump(work))
            await self._pieces.until_done(self._strays, "holds without an owner")
            await self._pieces.until_done(self.pins.reconcile, "pinned images")
            await self._look_after()
        self._may_go_on(self._expected)

    def _still_left(self) -> set[str]:
        """Return the ids of what `run` deals with; the others are in order by now."""
        ids: set[str] = {*self.held.records.sandboxes(), *self._unsettled}
        ids |= {item.id for _, item in self.held.records.containers()}
        ids |= {work.name for work in self._abandoned.directories()}
        return ids | {path.name for paths in self._unsettled.values() for path in paths}

    async def tend(self) -> None:
        """Try again what has failed; clear up after containers and pods that went without us."""
        self._pieces.new_round()
        await self._pieces.attempt(self._loaded(), "records on disk")
        await self._pieces.again()
        await self._pieces.attempt(self._dumps_again(), "dumps that were left")
        await self._pieces.attempt(self._doubtful(), "restores whose end is not known")
        unsettled = {*self._unsettled, *self.addresses.records.unsettled}
        await asyncio.gather(*(self._settle(sandbox) for sandbox in self._idle(unsettled)))
        self._may_go_on(self._expected)
        await self._look_after()

    async def _dumps_again(self) -> None:
        await asyncio.gather(*(self._dump(work) for work in self._works()))
        # Its own dump ends a container, perhaps after a restore.
        unended = self._idle(self.held.records.unended)
        await asyncio.gather(*(self._finish(item) for item in unended))

    def _works(self) -> list[Path]:
        """Return the directories of dumps that are none of ours; a tool's may be gone by now."""
        works = {*self._abandoned.directories()}
        works.update(place for place in self._at_work if isinstance(place, Path))
        return [work for work in sorted(works) if not self.locks.busy(work.name)]

    def _idle(self, sandboxes: Iterable[SandboxId]) -> list[SandboxId]:
        return [sandbox for sandbox in sandboxes if not self.locks.busy_in(sandbox)]

    def _may_go_on(self, ids: Iterable[str]) -> None:
        """Let calls for containers and sandboxes go on, but for those that a tool works on."""
        self.locks.recovered.done(*set(ids).difference(*self._at_work.values()))

    @contextlib.contextmanager
    def _waited_for(self, place: Path | SandboxId, *ids: str) -> Iterator[None]:
        """Have calls for these wait for the block, and on if it finds an earlier daemon's tool.

        Args: place: the directory of a dump, or the sandbox of restores.
        """
        self._at_work[place] = self._expected.intersection(ids)
        at_work = False
        try:
            yield
        except StillAtWork:
            at_work = True
            raise
        finally:
            if not at_work:
                del self._at_work[place]

    async def _look_after(self) -> None:
        await self._pieces.attempt(self._wrappers(), "wrappers of restored containers")
        await self._pieces.attempt(self.leftovers.sweep(), "containers that are gone")
        await self._pieces.attempt(self.addresses.sweep(), "addresses of pods that are gone")
        await self._pieces.attempt(self._connections(), "connections that wait")
        await self._pieces.attempt(clear_mounts(), "mounts of a CRIU that is gone")
        await self._pieces.attempt(hold.remove_left(), "holds that could not be removed")

    async def _connections(self) -> None:
        live = [item.id for item in await self.cri.sandboxes()]
        await self.held.sweep(live, wait_s=self.connections_wait_s)

    async def _loaded(self) -> None:
        """Read records again that could not be read at the start, or their whole directory."""
        for records in (self.addresses.records, self.held.records):
            await in_thread(records.load_refused if records.loaded else records.load)

    async def _wrappers(self) -> None:
        await wrappers.put_back(cri=self.cri, records=self.records, busy=self.locks.busy)

    async def _dump(self, work: Path, *, wait_s: float = 0) -> bool:
        """Let a container go on that a dump has left frozen, if that is right; clear its files.

        Returns: whether that was done, as far as anybody knows enough.
        """
        what = f"dump of container {work.name[:13]}"
        stopped = self.held.records.of_container(work.name)
        ids = {work.name} if stopped is None else {work.name, stopped[0].sandbox}

        async def put_in_order() -> None:
            with self._waited_for(work, *ids):
                await self._abandoned.put_in_order(work, wait_s=wait_s)

        return await self._pieces.attempt(put_in_order(), what)

    async def _deal_with_dump(self, work: Path) -> None:
        """Put in order what a dump has left that was to stop nothing, or never came so far."""
        await self._dump(work, wait_s=_TOOLS_S)
        self._may_go_on([work.name])

    async def _decide(self, sandbox: SandboxId) -> None:
        what = f"stopped container of {sandbox[:13]}"
        await self._pieces.attempt(self.held.decide(sandbox), what)

    async def _deal_with(self, sandbox: SandboxId) -> None:
        """Put everything in order that is known of a sandbox; then calls for it may go on."""
        await self._finish(sandbox, wait_s=_TOOLS_S)
        if sandbox in self._unsettled:
            await self._settle(sandbox, wait_s=_TOOLS_S)
        self._may_go_on([sandbox])

    async def _finish(self, sandbox: SandboxId, *, wait_s: float = 0) -> None:
        """Deal with stopped containers."""
        if (record := self.held.records.get(sandbox)) is None:
            return
        for item in record.containers:
            work = self.paths.dump(item.id)
            # Its guardian may still be at it, or a CRIU.
            if await in_thread(os.path.lexists, work) and not await self._dump(work, wait_s=wait_s):
                return
        await self._decide(sandbox)
        ending = to_the_end(self.held.finish(sandbox))
        await self._pieces.attempt(ending, f"end of the stopped container of {sandbox[:13]}")
        self._may_go_on([item.id for item in record.containers])

    async def _by_sandbox(self) -> dict[SandboxId, list[Path]]:
        """Return the sandboxes with something of a restore, and its containers' directories."""
        changed = self.addresses.records.sandboxes()
        found: dict[SandboxId, list[Path]] = {item: [] for item in changed}
        sandboxes = {item.id: item.pod_sandbox_id for item in await self.cri.containers()}
        for directory in self._restores():
            if directory.name in sandboxes:
                found.setdefault(sandbox_id(sandboxes[directory.name]), []).append(directory)
        return found

    async def _doubtful(self) -> None:
        """Have restores settled whose end containerd took with it."""
        if doubtful := tuple(self.addresses.records.doubtful):
            found = await self._by_sandbox()
            self._unsettled.update({item: found.get(item, []) for item in doubtful})

    async def _settle(self, sandbox: SandboxId, *, wait_s: float = 0) -> None:
        """Deal with what a restore has left of a sandbox, once it has come to its end."""
        what = f"pod {sandbox[:13]}"
        directories = self._unsettled.get(sandbox, [])
        names = [directory.name for directory in directories]
        worked = sandbox in self._at_work

        async def settle() -> None:
            with self._waited_for(sandbox, sandbox, *names):
                for directory in directories:
                    await self._restore_ended(directory, wait_s=wait_s, worked=worked)
            await self._settled(sandbox, directories)

        if await self._pieces.attempt(settle(), what):
            self._unsettled.pop(sandbox, None)
            await asyncio.gather(*(self._without_task(sandbox, item) for item in directories))
        self._may_go_on(names)

    async def _settled(self, sandbox: SandboxId, directories: list[Path]) -> None:
        arrived = False
        for directory in directories:
            arrived = await self.reviver.has_arrived(directory) or arrived
        async with self.locks.whole(sandbox):
            # Each is tried: none lives on because of another.
            async with contextlib.AsyncExitStack() as ends:
                for directory in reversed(directories):
                    ends.push_async_callback(to_the_end, self._half_restored.end(directory))
            await to_the_end(self.addresses.recover(sandbox, arrived=arrived))

    async def _without_task(self, sandbox: SandboxId, directory: Path) -> None:
        """Have a task deleted, now or later; a failure costs the rest of the pod nothing."""
        deleted = partial(self._half_restored.delete_task, sandbox, directory)
        await self._pieces.until_done(deleted, f"task of container {directory.name[:13]}")
        self._may_go_on([directory.name])

    async def _restore_ended(self, directory: Path, *, wait_s: float, worked: bool) -> None:
        if await in_thread(plans.read, directory) is not None:
            await settled(directory, wait_s=wait_s, worked=worked)

    async def _strays(self) -> None:
        """Remove holds and address translations that a crash has left without a record.

        Raises: Unavailable: the records cannot be read, and each hold may have one.
        """
        if not (self.held.records.loaded and self.addresses.records.loaded):
            raise Unavailable("the records of held pods cannot be read")
        unreadable = self.held.records.unreadable
        unread = [item for item in await self.cri.sandboxes() if item.id in unreadable]
        pods = {(await self.cri.sandbox(SandboxId(item.id))).netns for item in unread}
        nodes = {hold.NodeHold.record_of(item).table for item in unreadable}

        def owned(record: HoldRecord) -> bool:
            if record.table in nodes or record.netns in pods - {""}:
                return True  # the container's record is damaged, and says not which are its own
            ours = record.table in self.held.connections.tables()
            return ours or self.addresses.records.is_arriving(record.netns)

        await strays.sweep(self.cri, owned=owned)
        await address.sweep(keep=self.addresses.records.tables())
