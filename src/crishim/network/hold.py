"""Hold a pod's connections while nobody, or the wrong kernel, would answer for them.

From the pause of a container until its sockets exist again no frame for them may be answered by a
kernel that does not own them: that would be an RST, and the connection gone. A hold drops them, and
catches what it drops on the node's end of the pod's veth, so that the release can send it again and
no client waits for a retransmission.

Life of a hold: `prepare` (slow, changes nothing), `close` (under a millisecond), then exactly one
of the endings its class names. Every ending may be repeated. What a crash of ours leaves is one
nftables table, described by a `HoldRecord`; `standing` finds such tables, `remove` takes one away.
What an ending could not remove is remembered, and `remove_left` tries again.

This module never decides when to hold; it knows neither containers nor archives.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

from crishim.errors import CrishimError, NotFound
from crishim.kernel.net.netns import NetnsThread
from crishim.kernel.net.segment import without_repeats
from crishim.kernel.net.sockdiag import SockDiag
from crishim.network import rules
from crishim.network.drain import drain
from crishim.network.podlink import INTERFACE, PodLink
from crishim.network.sockets import held_sockets
from crishim.tools.nft import Nft

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from crishim.kernel.net.interface import InterfaceState
    from crishim.kernel.net.packet import Budget
    from crishim.kernel.net.segment import Frame
    from crishim.network.sockets import HeldSockets

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_left: set[HoldRecord] = set()
"""What could not be removed; like the namespaces themselves it belongs to the whole process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldRecord:
    """A hold as a record on disk keeps it.

    Attributes:
        netns: path of the namespace that the table is in; "" for the node's own.
        family: nftables family of the table.
        table: its name.
    """

    netns: str
    family: str
    table: str

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict for a record; `HoldRecord(**it)` is the way back."""
        return asdict(self)


class SourceHold:
    """Hold everything to and from a pod, or only the sockets of one container of it.

    Endings: `release` where the container goes on (after a resume, whatever happened before), or
    `leave_namespace` once the dump has ended it and then `close_catching`.
    """

    def __init__(self, link: PodLink, *, lasting: bool) -> None:
        self._link = link
        self._lasting = lasting
        self._syn_table = rules.new_table()
        self._silent: InterfaceState | None = None
        self.record = HoldRecord(netns=link.netns, family="netdev", table=rules.new_table())

    @classmethod
    async def prepare(cls, netns: str, *, lasting: bool) -> Self:
        """Make everything ready for `close`; nothing is held yet.

        Args:
            netns: path of the pod's network namespace.
            lasting: the dump will end the container: the hold then survives a crash of ours,
                because the dead sockets' connections must not be reset. Otherwise it vanishes
                with our process.
        Raises: NotFound, Precondition: as `PodLink.open`.
        """
        return cls(await PodLink.open(netns), lasting=lasting)

    async def drain(self, *, timeout_s: float, listeners: Collection[int] | None = None) -> None:
        """Let no new connection begin and wait until none is half begun; before the pause.

        What would have begun one is caught and sent again by the release, so that its client need
        not wait for a second's retransmission. A pod that is to fall silent altogether is made
        known to the node for as long as that. From here on `release` must follow.

        Args:
            timeout_s: how long the processes may take to accept what waits.
            listeners: inodes of the listening sockets to be dumped; None for all of the pod.
        Raises: Precondition: connections still wait to be accepted.
        """
        link = self._link
        ports = None
        if listeners is not None:
            ports = (await self.sockets(listeners)).tcp_ports
        text = rules.syn(self._syn_table, interface=INTERFACE, ports=ports)
        await link.inside.run(link.nft.run, text)
        # Not before the drop: a SYN that was delivered, and sent again when its connection is over,
        # would begin another one, and its client answers that with RST. One that is dropped before
        # this line comes again by itself.
        link.tap.start(only_syns=True)
        if listeners is None:
            self._silent = await link.inside.run(link.netlink.read, INTERFACE)
            await link.fix_neighbours(self._silent)
        await drain(link.inside, timeout_s=timeout_s, listeners=listeners, orphans=self._lasting)

    async def sockets(self, inodes: Collection[int]) -> HeldSockets:
        """Return which of the pod's TCP and UDP sockets have these inodes.

        Call it for `close` after the pause: only then do they not change any more.
        """

        def inside() -> HeldSockets:
            with contextlib.closing(SockDiag()) as diag:
                return held_sockets(diag.tcp(), diag.udp(), inodes=inodes)

        return await self._link.inside.run(inside)

    async def close(self, only: HeldSockets | None = None) -> None:
        """Drop and catch everything from now on.

        Args: only: not everything but these sockets, where other containers of the pod go on.
        Raises: ToolFailed: nft refused; nothing is held, and `release` is still to be called.
        """
        text = rules.source(
            self.record.table, interface=INTERFACE, lasting=self._lasting, sockets=only
        )
        self._link.tap.start(accept=only.matches if only else None)
        await self._link.inside.run(self._link.nft.run, text)

    async def release(self) -> int:
        """Let go and send the pod what was caught; return how many frames that were.

        On cancel: the release goes on to its end by itself.
        """
        return await asyncio.shield(self._release())

    async def _release(self) -> int:
        link = self._link
        if link.closed:
            return 0
        async with contextlib.AsyncExitStack() as last:
            last.push_async_callback(link.close)
            if self._silent is not None:
                last.push_async_callback(link.loosen_neighbours, self._silent)
            await _remove_by(link, self.record, self._syn_table)
            frames = without_repeats(link.tap.stop())
            return await link.outside.run(link.tap.send, frames)

    async def leave_namespace(self) -> None:
        """Leave the pod's namespace, with the drop standing in it; go on catching.

        The namespace may end from now on. The drop ends with it, or by `remove`.
        """
        await self._link.close_inside()

    def share(self, budget: Budget) -> None:
        """Count what is caught against a budget that all stopped containers share."""
        self._link.tap.share(budget)

    def stop_catching(self) -> list[Frame]:
        """End catching and return what was caught, oldest first; the drop stays.

        It is quick; `close_catching` is still needed, which closes everything.
        """
        return self._link.tap.stop()

    async def close_catching(self) -> list[Frame]:
        """End catching and return what was caught, oldest first; the drop stays."""
        frames = self._link.tap.stop()
        await asyncio.shield(self._link.close())
        return frames


class TargetHold:
    """Hold everything that comes to a pod whose sockets are about to be restored.

    It stands before the pod is given the address. Endings: `release` after the restore, or
    `abandon` after the address has been taken away again.
    """

    def __init__(self, link: PodLink) -> None:
        self.link = link
        self._silent: InterfaceState | None = None
        self.record = HoldRecord(netns=link.netns, family="netdev", table=rules.new_table())

    @classmethod
    async def prepare(cls, netns: str) -> Self:
        """Make everything ready for `close`; nothing is held yet.

        Raises: NotFound, Precondition: as `PodLink.open`.
        """
        return cls(await PodLink.open(netns))

    async def close(self, only: HeldSockets | None = None) -> None:
        """Drop and catch what comes in from now on; what goes out passes.

        Args: only: not everything but these sockets, where other containers live in the pod.
        Raises: ToolFailed: nft refused; nothing is held, and `abandon` is still to be called.
        """
        self.link.tap.start(accept=only.matches if only else None)
        text = rules.target(self.record.table, interface=INTERFACE, sockets=only)
        await self.link.inside.run(self.link.nft.run, text)

    async def seal(self) -> None:
        """Let nothing out any more: what comes to life behind the hold is going to be ended.

        Raises: ToolFailed: nft refused; it is as it was.
        """
        text = rules.sealed(self.record.table, interface=INTERFACE)
        await self.link.inside.run(self.link.nft.run, text)

    async def announce(self, state: InterfaceState) -> None:
        """Tell the network that the addresses are here now; what it then sends is caught."""
        link = self.link
        await link.fix_neighbours(state)
        self._silent = state
        await link.inside.run(link.announcer.announce, list(state.global_addresses), state.mac)

    async def release(self, state: InterfaceState, earlier: Sequence[Frame] = ()) -> int:
        """Let go, announce the addresses, and send what was caught; return how many frames.

        Args:
            state: the addresses and MAC that the pod now has.
            earlier: what the source's hold caught, to be sent first.
        On cancel: the release goes on to its end by itself.
        """
        return await asyncio.shield(self._release(state, earlier))

    async def _release(self, state: InterfaceState, earlier: Sequence[Frame]) -> int:
        link = self.link
        if link.closed:
            return 0
        async with contextlib.AsyncExitStack() as last:
            last.push_async_callback(self._close)
            await _remove_by(link, self.record)
            await link.inside.run(link.announcer.announce, list(state.global_addresses), state.mac)
            caught = sorted([*earlier, *link.tap.stop()], key=lambda frame: frame.caught_ns)
            return await link.outside.run(link.tap.send, without_repeats(caught))

    async def abandon(self) -> list[Frame]:
        """Let go without announcing or sending; return what was caught, for a later attempt.

        The pod must not have the address any more, or it resets the connections.
        On cancel: goes on to its end by itself.
        """
        return await asyncio.shield(self._abandon())

    async def _abandon(self) -> list[Frame]:
        if self.link.closed:
            return []
        async with contextlib.AsyncExitStack() as last:
            last.push_async_callback(self._close)
            await _remove_by(self.link, self.record)
            return self.link.tap.stop()

    async def leave(self) -> None:
        """Let go of everything but the drop: the pod still has an address that is not its own.

        What was caught is lost. `remove` of the record follows, when the address is gone.
        """
        await asyncio.shield(self.link.close())

    async def _close(self) -> None:
        async with contextlib.AsyncExitStack() as last:
            last.push_async_callback(self.link.close)
            if self._silent is not None:
                await self.link.loosen_neighbours(self._silent)


class NodeHold:
    """Drop what the node routes or sends to addresses that no pod has for the moment.

    It bridges the time from the removal of the old sandbox until the new one's `TargetHold` stands
    and has the address. It survives a crash of ours. Ending: `remove` of its record, which is for
    `held` to do: when the connections are restored (`hand_over`) or let go (`give_up`), and for the
    time of a restore. One that no record knows is taken away by `strays`.

    Args: sandbox: whose addresses they were; the same one has the same table.
    """

    def __init__(self, addresses: Collection[str], *, sandbox: str) -> None:
        self._addresses = tuple(addresses)
        self.record = self.record_of(sandbox)

    @staticmethod
    def record_of(sandbox: str) -> HoldRecord:
        """Return what the hold for a sandbox is known by."""
        return HoldRecord(netns="", family="inet", table=f"{rules.PREFIX}node_{sandbox[:12]}")

    async def close(self) -> None:
        """Begin to drop; may be repeated, and goes on dropping then."""
        table = f"table {self.record.family} {self.record.table}"
        # One transaction: adding first makes the deletion one that cannot fail.
        text = f"add {table}; delete {table}; {rules.node(self.record.table, self._addresses)}"
        await _in_namespace("", lambda nft: nft.run(text))


async def remove(record: HoldRecord) -> None:
    """Delete the table of a hold, if it and its namespace are still there.

    It does not send again what was caught: clients then wait for a retransmission.
    """

    def delete(nft: Nft) -> None:
        nft.remove(record.family, record.table)

    try:
        await _in_namespace(record.netns, delete)
    except NotFound:
        return


async def _remove_by(link: PodLink, record: HoldRecord, *more: str) -> None:
    """Delete a hold's table by a warm link, or else by a fresh one, or else remember it."""
    try:
        await link.inside.run(link.nft.remove, record.family, record.table, *more)
    except (CrishimError, OSError) as error:
        _log.error("the pod in %s stays cut off for now: %s", record.netns, error)
        _left.add(record)
        with contextlib.suppress(CrishimError, OSError):  # tried again by whoever tends
            await remove_left()


async def remove_left() -> None:
    """Remove what endings could not.

    Raises: the last error, where something is left still.
    """
    failed: Exception | None = None
    for record in tuple(_left):
        try:
            await remove(record)
            _left.discard(record)
        except (CrishimError, OSError) as error:
            failed = error
    if failed is not None:
        raise failed


async def standing(netns: str) -> list[HoldRecord]:
    """Return every hold's table in a namespace, whoever made it.

    Args: netns: path of the namespace, "" for the node's own.
    Raises: NotFound: no such namespace.
    """
    found = await _in_namespace(netns, lambda nft: nft.tables())
    return [
        HoldRecord(netns=netns, family=family, table=table)
        for family, table in found
        if table.startswith(rules.PREFIX)
    ]


async def end_closed(netns: str, addresses: Collection[str]) -> None:
    """Forget the connections of processes that a restore brought to life and that were ended.

    The kernel would go on with their ends when no hold stands any more, and refuses the same
    connections to the next restore until then. A hold stands, and drops the resets.

    Args: addresses: nobody else in the pod has them.
    """

    def inside() -> None:
        with contextlib.closing(SockDiag()) as diag:
            diag.end_closed(addresses)

    try:
        async with NetnsThread(netns) as thread:
            await thread.run(inside)
    except NotFound:
        return
    except OSError as error:
        _log.warning("what a failed restore has left of its connections stays: %s", error)


async def _in_namespace(netns: str, use: Callable[[Nft], _T]) -> _T:
    def inside() -> _T:
        nft = Nft()
        try:
            return use(nft)
        finally:
            nft.close()

    async with NetnsThread(netns or None) as thread:
        return await thread.run(inside)
