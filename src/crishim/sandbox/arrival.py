"""An address on its way to a pod: behind a hold, until the restored sockets exist."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from crishim.network import address
from crishim.network.hold import end_closed

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from crishim.ids import SandboxId
    from crishim.network.address import AddressRecord
    from crishim.network.hold import TargetHold
    from crishim.sandbox.addressrecords import AddressRecords
    from crishim.sandbox.held import HeldSandboxes

_log = logging.getLogger(__name__)


class Arrival:
    """An address on its way to a pod: behind a hold until the sockets exist.

    Endings: `release` after the restore; `undo` is always safe and does nothing after it.

    Args:
        plan: what `begin` will change; it is stored already.
        source: sandbox of the stopped container that had the address, if this node knows it.
    """

    def __init__(
        self,
        records: AddressRecords,
        held: HeldSandboxes,
        hold: TargetHold,
        *,
        plan: AddressRecord,
        source: SandboxId | None,
    ) -> None:
        self._records = records
        self._held = held
        self._hold = hold
        self._source = source
        self._plan = plan
        self._begun = False
        self._lifted = False
        self._over = False

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses that arrive."""
        return self._plan.preserved.global_addresses

    async def begin(self) -> None:
        """Give the pod its address; on failure `undo` is to be called."""
        self._begun = True
        # Known before its hold stands: a table that nobody knows is taken away (`strays`).
        self._records.remember(self._plan)
        await self._hold.close()
        await address.apply(self._plan, self._hold.link)
        await self._hold.announce(self._plan.preserved)
        if self._source is not None:
            self._lifted = True
            await self._held.connections.lift_node_hold(self._source)

    async def seal(self) -> None:
        """Let nothing of the pod out any more, because its restore is going to be undone."""
        if self._begun and not self._over:
            await self._hold.seal()

    async def release(self) -> None:
        """Let the connections go on: the sockets are there.

        Each step is tried, and none that fails takes the restore back, which has succeeded: what is
        left is remembered, and `PreservedAddresses.sweep` and `hold.remove_left` try again.
        """
        if self._over or not self._begun:
            return
        self._over = True
        connections, source = self._held.connections, self._source
        earlier = connections.stop_catching(source) if source is not None else []
        await tried(self._hold.release(self._plan.preserved, earlier=earlier))
        await tried(self._records.released(self._plan.sandbox))
        if self._source is not None:
            await tried(self._held.connections.hand_over(self._source))

    async def leave(self) -> None:
        """Leave everything as it is: whether the sockets are there is not known yet.

        Recovery finds it out when containerd is back; nothing is restored in the pod until then.
        """
        if not self._over:
            self._over = True
            self._records.doubtful.add(self._plan.sandbox)
            await tried(self._hold.leave())

    async def undo(self) -> None:
        """Take the address away again; the hold ends last, and stands until that has succeeded.

        Each step is tried. Where the address stays for now, the next `arrive` or the next start of
        the daemon takes it away first.
        """
        if self._over:
            return
        self._over = True
        if self._source is not None and self._lifted:
            await tried(self._held.connections.restore_node_hold(self._source))
        if await tried(self._take_back()):
            await tried(self._hold.abandon())
        else:
            await tried(self._hold.leave())
        if self._source is not None and self._begun:
            await tried(self._held.connections.keep_again(self._source))

    async def _take_back(self) -> None:
        """Take back what has changed, behind the hold; `arrive` and the sweep try again."""
        plan = self._plan
        if self._begun:
            self._records.unfinished.add(plan.sandbox)
            await end_closed(plan.netns, plan.preserved.global_addresses)
            await address.put_back(plan)
        self._records.forget(plan.sandbox)


async def tried(step: Awaitable[object]) -> bool:
    """Run one step of an undo or a release; return whether it succeeded, having logged why not."""
    try:
        await step
    except Exception:  # noqa: BLE001 - the next step must be tried whatever this one met
        _log.exception("a step to leave a pod's network in order has failed")
        return False
    return True
