"""Which containers of the node are stopped: the records, in memory and on disk.

A record changes behind its sandbox's lock, in memory first and on disk then: what this daemon
knows holds, also where its disk refuses. This module must never know holds, processes or archives.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from crishim.aio.lanes import Lane
from crishim.aio.shield import in_thread
from crishim.errors import Precondition, Unavailable
from crishim.ids import SandboxId, by_prefix
from crishim.sandbox import heldrecord
from crishim.sandbox.heldrecord import HeldState
from crishim.sandbox.recordfiles import RecordFiles

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterable
    from pathlib import Path

    from crishim.ids import ContainerId
    from crishim.paths import Paths
    from crishim.sandbox.heldrecord import HeldContainer, HeldRecord


class HeldRecords:
    """All stopped containers of the node, by their sandbox."""

    def __init__(self, paths: Paths) -> None:
        self._records: dict[SandboxId, HeldRecord] = {}
        self._locks: dict[SandboxId, asyncio.Lock] = {}
        self._files = RecordFiles(paths.held, paths.held_sandbox, codec=heldrecord.CODEC)

    def load(self) -> None:
        """Read the records that an earlier daemon has left; none is acted upon yet.

        Raises: OSError: their directory cannot be read.
        """
        self._add(self._files.read())

    def load_refused(self) -> None:
        """Read again the records that the disk has not given."""
        self._add(self._files.read_refused())

    def _add(self, found: dict[SandboxId, HeldRecord]) -> None:
        for sandbox, record in found.items():
            if sandbox not in self._records:
                self._records[sandbox] = record
                for item in record.containers:
                    if item.state is HeldState.FROZEN:
                        self.put(self._records[sandbox].changed(item.id, state=HeldState.ANNOUNCED))

    @property
    def loaded(self) -> bool:
        """Whether the records that an earlier daemon left could be read."""
        return self._files.loaded

    @property
    def unreadable(self) -> frozenset[SandboxId]:
        """The sandboxes with a stopped container whose record cannot be read."""
        return frozenset(self._files.unreadable)

    def unread(self) -> list[Path]:
        """Return the records on disk that say nothing to us, the oldest too; blocks.

        Raises: OSError: nobody knows which there are.
        """
        return self._files.unread()

    def keep_unreadable(self, live: Collection[str]) -> None:
        """Forget damaged records of sandboxes that are gone."""
        self._files.keep_unreadable(live)

    def sandboxes(self) -> list[SandboxId]:
        """Return the sandboxes with a stopped container, known or unknown."""
        return [*self._records, *self._files.unreadable]

    def all(self) -> list[HeldRecord]:
        """Return all records; any thread may ask."""
        return list(self._records.values())

    def containers(self) -> list[tuple[HeldRecord, HeldContainer]]:
        """Return all stopped containers, each with its sandbox's record; any thread may ask."""
        return [(record, item) for record in self.all() for item in record.containers]

    def get(self, sandbox: SandboxId) -> HeldRecord | None:
        """Return the record of a sandbox, if it is known."""
        return self._records.get(sandbox)

    def of_sandbox(self, sandbox: SandboxId) -> HeldRecord | None:
        """Return the record of a sandbox.

        Raises: Precondition: there is one, but it cannot be read.
        """
        if not self._files.loaded:
            raise Unavailable("the records of stopped containers cannot be read", hint="try again")
        if sandbox in self._files.unreadable:
            raise Precondition(
                "a container of the pod was stopped by a checkpoint, and its record is damaged or "
                "of a later version",
                hint="restore its checkpoint into a new pod, and remove this one",
            )
        return self._records.get(sandbox)

    def of_container(self, container: str) -> tuple[HeldRecord, HeldContainer] | None:
        """Return a stopped container by its id or the first digits of it, and its record."""
        found = by_prefix(container, (item.id for _, item in self.containers()))
        return next((pair for pair in self.containers() if pair[1].id == found), None)

    def of_archive(self, archive: Path) -> HeldRecord | None:
        """Return the record whose connections wait for the restore of an archive."""
        return next(
            (r for r, c in self.containers() if c.archive == str(archive) and r.waiting), None
        )

    def of_addresses(self, addresses: Iterable[str]) -> HeldRecord | None:
        """Return the record whose connections wait for one of these addresses."""
        wanted = set(addresses)
        return next((r for r in self._records.values() if wanted & set(r.waiting)), None)

    def is_undecided(self, container: str) -> bool:
        """Return whether nobody knows enough about a container."""
        return any(item.id == container for _, item in self._undecided())

    @property
    def undecided(self) -> list[SandboxId]:
        """The sandboxes with a stopped container that nobody knows enough about."""
        return list(dict.fromkeys(record.sandbox for record, _ in self._undecided()))

    @property
    def unended(self) -> list[SandboxId]:
        """The sandboxes with a stopped container to be looked at again, or to be ended by us.

        A kubelet's is ended by the kubelet, and one with a doubtful archive by whoever stops it.
        """
        ours = (
            record.sandbox
            for record, item in self.containers()
            if item.frozen and not item.kubelet and not item.doubtful
        )
        return list(dict.fromkeys([*self.undecided, *ours]))

    def _undecided(self) -> list[tuple[HeldRecord, HeldContainer]]:
        return [(record, item) for record in self.all() for item in record.undecided]

    def fixed(self) -> set[str]:
        """Return the addresses that the node has a hardware address for as long as we hold them."""
        return {a for r in self._records.values() if r.node_hold is None for a in r.waiting}

    @contextlib.asynccontextmanager
    async def locked(self, sandbox: SandboxId) -> AsyncIterator[HeldRecord | None]:
        """Own a sandbox's record for the block; yield it, if it is known by then."""
        async with self._locks.setdefault(sandbox, asyncio.Lock()):
            yield self._records.get(sandbox)

    async def change(self, sandbox: SandboxId, change: Callable[[HeldRecord], HeldRecord]) -> None:
        """Change a record that is `locked`, in memory first; one that is forgotten stays so.

        Raises: OSError, NoSpace, Precondition: it is not on disk; `overwrite` may do.
        """
        if (record := self._records.get(sandbox)) is not None:
            record = self._records[sandbox] = change(record)
            await in_thread(self._files.write, sandbox, record)

    async def overwrite(self, record: HeldRecord) -> None:
        """Write a record where the one before lies, which takes no room; it must not have grown."""
        await in_thread(self._files.overwrite, record.sandbox, record)

    async def write_ahead(self, record: HeldRecord) -> None:
        """Write down a record that this daemon does not count yet: see `put`."""
        await in_thread(self._files.write, record.sandbox, record)

    def put(self, record: HeldRecord) -> None:
        """Count a record, whose text on disk means the same to a later daemon."""
        self._records[record.sandbox] = record

    def state(self, sandbox: SandboxId, container: ContainerId, state: HeldState) -> None:
        """Note what is known of a container now; a later daemon asks again."""
        if (record := self._records.get(sandbox)) is not None:
            self.put(record.changed(container, state=state))

    def forget(self, sandbox: SandboxId) -> None:
        """Drop a record; a power cut may bring it back, until `forgotten_for_good`."""
        self._records.pop(sandbox, None)
        self._files.remove(sandbox)

    async def forgotten_for_good(self) -> None:
        """Have no power cut bring back the records that were dropped.

        After it the node would hold back the addresses of one, and drop what comes to them. Those
        of connections that have gone on elsewhere do no harm.
        """
        await in_thread(self._files.make_removals_durable, lane=Lane.PAUSE)
