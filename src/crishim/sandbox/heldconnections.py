"""The connections of stopped containers, until somebody restores them.

Between the end of a container and the restore of its checkpoint no kernel may answer for its
connections. The pod's own hold drops their packets as long as its sandbox exists; a hold of the
node takes over when the sandbox goes, and keeps its addresses from other pods. What was caught
meanwhile waits in memory for the restored pod; after a restart of the daemon the connections live
on, but their clients send again first. This module must never know processes or archives.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from crishim.aio.shield import in_thread
from crishim.errors import AlreadyExists, Busy, NotFound, Precondition
from crishim.kernel.net import packet, segment
from crishim.network import hold, neighbours, reservation
from crishim.sandbox.heldrecord import Waits

if TYPE_CHECKING:
    from crishim.ids import SandboxId
    from crishim.kernel.net.segment import Frame
    from crishim.sandbox.heldrecord import HeldRecord
    from crishim.sandbox.heldrecords import HeldRecords

_log = logging.getLogger(__name__)
_CAUGHT_BYTES_MAX = 256 << 20
"""What is caught for all stopped containers of the node together."""


class HeldConnections:
    """The connections of all stopped containers of the node, by their sandbox."""

    def __init__(self, records: HeldRecords) -> None:
        self._records = records
        self._catching: dict[SandboxId, hold.SourceHold] = {}
        self._budget = packet.Budget(_CAUGHT_BYTES_MAX)
        self._restoring: set[SandboxId] = set()
        self._gone_on: set[SandboxId] = set()  # to be handed over to the end

    def catch(self, sandbox: SandboxId, caught: hold.SourceHold) -> None:
        """Count what a hold catches as its sandbox's."""
        self._catching[sandbox] = caught

    def share(self, sandbox: SandboxId) -> None:
        """Count what is caught against what all stopped containers may have."""
        if caught := self._catching.get(sandbox):
            caught.share(self._budget)

    def drop(self, sandbox: SandboxId) -> None:
        """Catch nothing for a sandbox any more; its hold is somebody else's business."""
        self._catching.pop(sandbox, None)

    def forget(self, sandbox: SandboxId) -> None:
        """Drop a record; the holds are somebody else's business.

        If its connections may still wait by its words, `forgotten_for_good` is to follow.
        """
        self._gone_on.discard(sandbox)
        self.drop(sandbox)
        self._records.forget(sandbox)

    def tables(self) -> set[str]:
        """Return the names of the nftables tables that stand, or may stand, for good reason."""
        holds = [hold for r in self._records.all() for hold in (r.pod_hold, r.node_hold)]
        holds += [caught.record for caught in self._catching.values()]
        return {item.table for item in holds if item is not None}

    def is_restoring(self, sandbox: SandboxId) -> bool:
        """Return whether a restore is under way that its connections wait for."""
        return sandbox in self._restoring

    def has_gone_on(self, sandbox: SandboxId) -> bool:
        """Return whether another pod has the address, but `hand_over` has not come to its end."""
        return sandbox in self._gone_on

    async def leave_namespace(self, sandbox: SandboxId) -> None:
        """Hold no descriptor of a pod's namespace any more; its drop stays, and the catching."""
        if caught := self._catching.get(sandbox):
            await caught.leave_namespace()

    async def leave_sandbox(self, sandbox: SandboxId) -> None:
        """Let the node drop what the sandbox's own hold dropped, before the sandbox goes."""
        async with self._records.locked(sandbox) as record, contextlib.AsyncExitStack() as steps:
            if record is not None and record.waiting and sandbox not in self._gone_on:
                steps.push_async_callback(self.node_takes_over, record)
            await self.leave_namespace(sandbox)

    async def node_takes_over(self, record: HeldRecord) -> None:
        """Let the node drop what a sandbox's own hold dropped, for the sandbox goes or is gone.

        Each step is tried: connections are lost where nothing drops, whatever is on disk. The sweep
        sets the hold again, and a later start finds one that it does not know.
        Args: record: `locked`; written down as it is here, but for where its connections wait.
        """
        record = replace(record, waits=Waits.AT_NODE)
        async with contextlib.AsyncExitStack() as steps:
            steps.push_async_callback(self._reserve, record)
            steps.push_async_callback(neighbours.loosen, record.waiting)
            steps.push_async_callback(_node_hold(record).close)
            await self._records.change(record.sandbox, lambda _: record)

    async def hold_at_node(self, sandbox: SandboxId) -> None:
        """Have the node drop again what it is to drop, whoever has removed the rules meanwhile."""
        async with self._records.locked(sandbox) as record:
            if sandbox not in self._restoring:
                await self._drop_at_node(record)

    async def lift_node_hold(self, sandbox: SandboxId) -> None:
        """Stop dropping at the node, once the target's own hold stands and has the address.

        For the time of a restore only: the record keeps the hold. `restore_node_hold` sets it again
        where the restore fails, `hand_over` forgets it where it succeeds.
        """
        self._restoring.add(sandbox)
        record = self._records.get(sandbox)
        if record is None or record.node_hold is None:
            return  # a source that is just being ended has the lock, and must not hold us up
        async with self._records.locked(sandbox) as record:
            if record is not None and record.node_hold is not None:
                await hold.remove(record.node_hold)

    async def restore_node_hold(self, sandbox: SandboxId) -> None:
        """Drop at the node again, because the restore has failed and another may follow.

        It goes as without that restore: by `hand_over` after the next one, or by `give_up`. Not
        behind the back of `hand_over`: rules that came after it would cut a running pod off.
        """
        async with self._records.locked(sandbox) as record:
            await self._drop_at_node(record)

    async def _drop_at_node(self, record: HeldRecord | None) -> None:
        if record is None or record.sandbox in self._gone_on or record.node_hold is None:
            return
        await _node_hold(record).close()

    async def keep_again(self, sandbox: SandboxId) -> None:
        """Keep the addresses from others again, after a failed restore has put them back."""
        self._restoring.discard(sandbox)
        async with self._records.locked(sandbox) as record:
            if record is None or not record.waiting:
                return
            await self._reserve(record)
            if record.node_hold is None:
                with contextlib.suppress(NotFound, Precondition):  # it goes at this moment
                    for state in record.interfaces:
                        await neighbours.fix(record.netns, state)

    def stop_catching(self, sandbox: SandboxId) -> list[Frame]:
        """Return what was caught, oldest first; clients wait for it, so it is quick."""
        caught = self._catching.get(sandbox)
        return caught.stop_catching() if caught is not None else []

    async def hand_over(self, sandbox: SandboxId) -> None:
        """Hold connections no longer, because they were restored elsewhere.

        The node's hold goes for good, if there is one. Its sandbox, if it is still there, keeps the
        address behind its hold until it is removed; a container that is still frozen is ended when
        its kubelet stops it. The record goes last: after a failure it is to be called again.
        """
        async with self._records.locked(sandbox) as record:
            if record is None:
                return
            # Another pod has the address: whatever of the rest fails, nobody drops for it again.
            self._gone_on.add(sandbox)
            self._restoring.discard(sandbox)
            if caught := self._catching.pop(sandbox, None):
                await caught.close_catching()
            await neighbours.loosen(record.waiting)
            if record.node_hold is not None:
                await hold.remove(record.node_hold)
            await self._unreserve(record)
            if record.node_hold is not None:
                self.forget(sandbox)  # its sandbox is gone, or stopped for good
                await self._records.forgotten_for_good()
            else:
                await self._records.change(sandbox, lambda it: replace(it, waits=Waits.NO_MORE))
                self._gone_on.discard(sandbox)

    async def give_up(self, sandbox: SandboxId, why: str) -> None:
        """Stop holding connections that nobody will restore on this node.

        Their time is up, somebody lets go of them, or CNI has given their address away. The hold of
        the node goes, as by `hand_over`. Whoever has sent something meanwhile learns it at once, by
        a reset.
        """
        record = self._records.get(sandbox)
        if record is not None and record.waiting:
            _log.warning("connections to %s are let go: %s", ", ".join(record.waiting), why)
            resets = segment.refusals(self.stop_catching(sandbox))
            await in_thread(packet.send_packets, resets)
            await self.hand_over(sandbox)

    async def let_go(self, record: HeldRecord) -> None:
        """Remove all holds of a sandbox whose container goes on."""
        for standing in (record.pod_hold, record.node_hold):
            if standing is not None:
                await hold.remove(standing)
        await neighbours.loosen(record.waiting)

    async def _reserve(self, record: HeldRecord) -> None:
        """Keep CNI from giving the addresses to others, whether the sandbox still exists or not."""
        try:
            if record.reservations:
                await in_thread(
                    functools.partial(
                        reservation.reserve,
                        Path(record.reservations),
                        record.waiting,
                        owner=record.sandbox,
                        former=record.sandbox,
                        waiting=record.node_hold is not None,
                    )
                )
        except (AlreadyExists, Busy, OSError) as error:
            _log.warning("cannot reserve %s: %s", ", ".join(record.waiting), error)

    async def _unreserve(self, record: HeldRecord) -> None:
        """Let CNI give the addresses to others; what another sandbox has reserved is its own."""
        if record.reservations:
            release = functools.partial(
                reservation.release, Path(record.reservations), record.waiting, waiting=True
            )
            await in_thread(functools.partial(release, owner=record.sandbox))


def _node_hold(record: HeldRecord) -> hold.NodeHold:
    return hold.NodeHold(record.waiting, sandbox=record.sandbox)
