"""Which sandboxes have another address than CNI gave them: the records, in memory and on disk.

This module must never know what changes a pod, nor who decides.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from crishim.aio.shield import in_thread
from crishim.network import address
from crishim.sandbox.recordfiles import RecordFiles

if TYPE_CHECKING:
    from collections.abc import Collection

    from crishim.ids import SandboxId
    from crishim.network.address import AddressRecord
    from crishim.paths import Paths


class AddressRecords:
    """The addresses of pods that are from us.

    Attributes:
        unfinished: a restore has failed in these, and what it changed is to be taken back still.
        doubtful: whether a restore in these has succeeded nobody knows yet.
    """

    def __init__(self, paths: Paths) -> None:
        self._records: dict[SandboxId, AddressRecord] = {}
        self._files = RecordFiles(paths.sandboxes, paths.sandbox, codec=address.CODEC)
        self._unwritten: set[SandboxId] = set()
        self.unfinished: set[SandboxId] = set()
        self.doubtful: set[SandboxId] = set()

    def load(self) -> None:
        """Read the records that an earlier daemon has left; none is acted upon yet.

        Raises: OSError: their directory cannot be read.
        """
        for sandbox, record in self._files.read().items():
            self._records.setdefault(sandbox, record)

    def load_refused(self) -> None:
        """Read again the records that the disk has not given."""
        for sandbox, record in self._files.read_refused().items():
            self._records.setdefault(sandbox, record)

    @property
    def loaded(self) -> bool:
        """Whether the records that an earlier daemon left could be read."""
        return self._files.loaded

    def is_unknown(self, sandbox: SandboxId) -> bool:
        """Return whether there may be a record that says nothing to us."""
        return sandbox in self._files.unreadable or not self._files.loaded

    def keep_unreadable(self, live: Collection[str]) -> None:
        """Forget damaged records of sandboxes that are gone."""
        self._files.keep_unreadable(live)

    @property
    def any(self) -> bool:
        """Whether any sandbox has another address than CNI gave it."""
        return bool(self._records)

    def get(self, sandbox: SandboxId) -> AddressRecord | None:
        """Return the record of a sandbox, if it has an address from us."""
        return self._records.get(sandbox)

    def all(self) -> list[AddressRecord]:
        """Return all records."""
        return list(self._records.values())

    def sandboxes(self) -> list[SandboxId]:
        """Return the sandboxes with a preserved address."""
        return list(self._records)

    def in_doubt(self, sandbox: SandboxId) -> bool:
        """Return whether a pod has an address, or may have, of a restore that is to be settled."""
        record = self._records.get(sandbox)
        return record is not None and not record.released

    @property
    def unsettled(self) -> list[SandboxId]:
        """The sandboxes in which a restore has left something to be taken back, or to be found out.

        Whether to take it back `PreservedAddresses.recover` is told.
        """
        return [item for item in self.unfinished | self.doubtful if item in self._records]

    def is_arriving(self, netns: str) -> bool:
        """Return whether a sandbox is getting an address, or may be: its hold stands by right."""
        return any(r.netns == netns and not r.released for r in self._records.values())

    def tables(self) -> set[str]:
        """Return the names of the nftables tables that translate preserved addresses."""
        unreadable = {address.table_of(sandbox) for sandbox in self._files.unreadable}
        return unreadable | {record.table for record in self._records.values()}

    async def write_ahead(self, plan: AddressRecord) -> None:
        """Write down what is going to change; it counts from `remember` on."""
        await in_thread(self._files.write, plan.sandbox, plan)

    def remember(self, record: AddressRecord) -> None:
        """Count a sandbox among those with a preserved address."""
        self.unfinished.discard(record.sandbox)
        self._records[record.sandbox] = record

    async def released(self, sandbox: SandboxId) -> None:
        """Write down that an address is there for good: the restore that brought it succeeded."""
        record = replace(self._records[sandbox], released=True)
        self._records[sandbox] = record
        self.unfinished.discard(sandbox)
        self.doubtful.discard(sandbox)
        self._unwritten.add(sandbox)
        await in_thread(self._files.write, sandbox, record)
        self._unwritten.discard(sandbox)

    def is_unwritten(self, sandbox: SandboxId) -> bool:
        """Return whether that its address is there for good is not on disk yet."""
        return sandbox in self._unwritten

    def forget(self, sandbox: SandboxId) -> None:
        """Drop the record of a sandbox."""
        self._files.remove(sandbox)
        self._records.pop(sandbox, None)
        self.unfinished.discard(sandbox)
        self._unwritten.discard(sandbox)
        self.doubtful.discard(sandbox)
