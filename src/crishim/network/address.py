"""Give a new sandbox the address of the pod that is restored into it, and take it back.

CNI gave the sandbox an address of its own and will want to find it when the sandbox goes, so that
address stays, deprecated, and every change is written down first: `plan` reads, the caller stores
the record, `apply` changes, `put_back` undoes. The new owner's `TargetHold` is closed meanwhile.
A dead source sandbox on the same node keeps the address too, behind its lasting hold, which lets
nobody notice; so CNI finds there what it made.

This module does not decide who may have an address, beyond refusing one that somebody has.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import ipaddress
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crishim.aio.lanes import Lane
from crishim.aio.shield import in_thread
from crishim.errors import AlreadyExists, NotFound
from crishim.ids import SandboxId, sandbox_id
from crishim.kernel.net.interface import InterfaceState, Neighbour, Route, route_from_json
from crishim.kernel.net.netlink import Netlink
from crishim.kernel.net.netns import NetnsThread
from crishim.kernel.net.probe import probe
from crishim.network import cni, placement, reservation, rules
from crishim.network.podlink import INTERFACE
from crishim.tools.nft import Nft
from crishim.versioned import Codec

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from crishim.network.podlink import PodLink
    from crishim.strictjson import Reader

_log = logging.getLogger(__name__)
_PROBE_S = 0.2
_TABLE_PREFIX = "crishim_address_"


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressRecord:
    """Everything that giving a sandbox its preserved address changes.

    Attributes:
        netns: path of the sandbox's network namespace.
        own: its interface as CNI made it.
        preserved: its interface as it is to be.
        former: the dead sandbox whose host-local reservation may be taken; "" for none.
        host_device: the node's interface that leads to it: a bridge, or the veth's end.
        host_routes: routes through `host_device` that are ours.
        nat: nftables text in the node's namespace; "" for none.
        reservations: host-local's directory; "" where another plugin gave the address.
        released: the restore that brought the address has succeeded, and its hold is gone.
    """

    sandbox: SandboxId
    netns: str
    own: InterfaceState
    preserved: InterfaceState
    former: str = ""
    host_device: str
    host_routes: tuple[Route, ...] = ()
    nat: str = ""
    reservations: str = ""
    released: bool = False

    @property
    def moved(self) -> tuple[str, ...]:
        """The addresses that the sandbox has from us."""
        return placement.moved(self.preserved, self.own)

    @property
    def table(self) -> str:
        """Name of our nftables table for the sandbox."""
        return table_of(self.sandbox)


def _read(item: Reader, _: int) -> AddressRecord:
    return AddressRecord(
        sandbox=sandbox_id(item.text("sandbox")),
        netns=item.text("netns"),
        own=InterfaceState.from_json(item.section("own").raw()),
        preserved=InterfaceState.from_json(item.section("preserved").raw()),
        former=item.text("former"),
        host_device=item.text("host_device"),
        host_routes=tuple(map(route_from_json, item.raw_sections("host_routes"))),
        nat=item.text("nat"),
        reservations=item.text("reservations"),
        # Versions that did not say it wrote nothing else for long.
        released=item.flag("released") if item.has("released") else True,
    )


CODEC = Codec(what="the record of a sandbox's address", version=1, read=_read)


def table_of(sandbox: SandboxId) -> str:
    """Return the name of our nftables table for a sandbox."""
    return _TABLE_PREFIX + sandbox[:32].replace("-", "_").replace(".", "_")


async def read(netns: str) -> InterfaceState:
    """Return the state of a pod's eth0; raise NotFound where there is none."""

    def inside() -> InterfaceState:
        with contextlib.closing(Netlink()) as netlink:
            return netlink.read(INTERFACE)

    async with NetnsThread(netns) as thread:
        return await thread.run(inside)


async def check(
    preserved: InterfaceState,
    others: Mapping[SandboxId, Collection[str]],
    *,
    link: PodLink,
    ask_network: bool = True,
) -> None:
    """Make sure that nobody has the preserved addresses; changes nothing.

    Args:
        others: addresses of every other live sandbox of the node. A dead source behind its hold
            is not among them.
        link: to the sandbox that is to have the addresses; on a bridge its segment is asked.
        ask_network: not while the one that is to give them up answers there.
    Raises: AlreadyExists: somebody has one; it says who.
    """
    wanted = set(preserved.global_addresses)
    for sandbox, addresses in others.items():
        if taken := wanted & set(addresses):
            raise AlreadyExists(
                f"the address {', '.join(sorted(taken))} is in use by another pod on this node",
                details=f"sandbox {sandbox}",
            )

    nodes = await link.outside.run(link.host_netlink.all_addresses)
    if taken := wanted & nodes:
        raise AlreadyExists(f"the address {', '.join(sorted(taken))} is the node's own")

    def ask() -> dict[str, str]:
        if link.host_device == link.host_interface or not ask_network:
            return {}
        mac = link.host_netlink.read(link.host_device).mac
        return probe(link.host_device, wanted, mac=mac, timeout_s=_PROBE_S)

    own = await link.inside.run(link.netlink.read, INTERFACE)
    wanted -= set(own.global_addresses)
    for address, mac in (await link.outside.run(ask) if wanted else {}).items():
        raise AlreadyExists(
            f"the address {address} is in use on the network", details=f"{mac} answers for it"
        )


async def plan(
    link: PodLink,
    preserved: InterfaceState,
    *,
    sandbox: SandboxId,
    former: SandboxId | None,
    cni_root: Path = cni.ROOT,
) -> AddressRecord:
    """Work out what `apply` will do; changes nothing.

    Args:
        link: to a sandbox that CNI has just made and nobody has changed.
        former: the dead source's sandbox, if it is still on this node.
        cni_root: where CNI's cache and reservations are.
    """
    own = await link.inside.run(link.netlink.read, INTERFACE)
    host = await link.outside.run(link.host_netlink.read, link.host_device)
    network = await in_thread(lambda: cni.sandbox_network(sandbox, root=cni_root))
    record = AddressRecord(
        sandbox=sandbox,
        netns=link.netns,
        own=own,
        preserved=placement.placed(preserved, own=own, host=host),
        former=former or "",
        host_device=host.name,
        host_routes=placement.host_routes(preserved, own=own, host=host),
        reservations=str(network.reservations or ""),
    )
    text = rules.nat(
        record.table,
        _moved_subnets(record),
        masquerade=network.masquerade,
        mappings=network.port_mappings,
    )
    if text:
        await link.open_host_nft()
    return dataclasses.replace(record, nat=text)


def _moved_subnets(record: AddressRecord) -> list[rules.Moved]:
    return [
        rules.Moved(
            address=item.address,
            subnet=str(ipaddress.ip_interface(f"{item.address}/{item.prefix_bits}").network),
        )
        for item in record.preserved.addresses
        if item.address in record.moved
    ]


async def apply(record: AddressRecord, link: PodLink) -> None:
    """Give the sandbox its preserved address, MAC, routes and neighbours.

    The `TargetHold` of the sandbox is closed, the record is stored. May be repeated.

    Raises:
        AlreadyExists: the address is reserved for another pod.
        Precondition: the kernel refuses; `put_back` is to be called.
    """
    if record.reservations:
        former = SandboxId(record.former) if record.former else None
        await in_thread(
            functools.partial(
                reservation.reserve,
                Path(record.reservations),
                record.preserved.global_addresses,
                owner=record.sandbox,
                former=former,
            )
        )
    elif record.moved:
        _log.warning("nothing reserves %s: the IPAM is not host-local", ", ".join(record.moved))
    if astray := placement.astray(record.preserved, record.own):
        _log.warning(
            "%s is outside the pods' subnet of this node: others reach it if the network leads it "
            "here, which CNI does not see to",
            ", ".join(astray),
        )
    await link.inside.run(_change_pod, link.netlink, record)
    await link.outside.run(_change_host, link.host_netlink, record)
    if record.nat:
        await link.outside.run(_translate, await link.open_host_nft(), record)


def _change_pod(netlink: Netlink, record: AddressRecord) -> None:
    netlink.impose(record.preserved)
    kept = record.preserved.global_addresses
    for address in record.own.addresses:
        if address.is_global and address.address not in kept:
            bits = 32 if address.version == 4 else 128
            # Rules of CNI's plugins lead to its own address; it stays for them, never chosen.
            netlink.add_address(
                INTERFACE, dataclasses.replace(address, prefix_bits=bits), deprecated=True
            )


def _change_host(netlink: Netlink, record: AddressRecord) -> None:
    for route in record.host_routes:
        netlink.replace_route(record.host_device, route)
    _tell_host(netlink, record, record.preserved.mac)


def _translate(nft: Nft, record: AddressRecord) -> None:
    nft.remove("inet", record.table)
    nft.run(record.nat)


def _tell_host(netlink: Netlink, record: AddressRecord, mac: str) -> None:
    """Have the node send to the pod at once: while a hold stands the pod answers no question."""
    for address in (*record.own.global_addresses, *record.moved):
        neighbour = Neighbour(address=address, mac=mac)
        netlink.set_neighbour(record.host_device, neighbour, reachable=True)


async def put_back(record: AddressRecord) -> None:
    """Leave the sandbox as CNI made it; before CNI removes it, and when a restore failed.

    May be repeated, before `apply` too, and when the sandbox is gone. Every step is tried.
    Raises: the last step's error of those that failed.
    """
    async with contextlib.AsyncExitStack() as steps:
        if record.reservations:
            directory, owner = Path(record.reservations), record.sandbox
            steps.push_async_callback(
                in_thread,
                lambda: reservation.release(directory, record.moved, owner=owner),
                lane=Lane.PAUSE,
            )
        steps.push_async_callback(_in_pod, record)
        outside = await steps.enter_async_context(NetnsThread(None))
        for step in (_restore_neighbours, _restore_routes, _remove_table):
            steps.push_async_callback(outside.run, step, record)


async def _in_pod(record: AddressRecord) -> None:
    with contextlib.suppress(NotFound):
        async with NetnsThread(record.netns) as inside:
            await inside.run(_restore_pod, record)


def _restore_pod(record: AddressRecord) -> None:
    with contextlib.closing(Netlink()) as netlink:
        netlink.impose(record.own)


def _remove_table(record: AddressRecord) -> None:
    with contextlib.closing(Nft()) as nft:
        nft.remove("inet", record.table)


def _restore_routes(record: AddressRecord) -> None:
    with contextlib.closing(Netlink()) as netlink, contextlib.suppress(NotFound):
        for route in record.host_routes:
            netlink.remove_route(record.host_device, route)


def _restore_neighbours(record: AddressRecord) -> None:
    with contextlib.closing(Netlink()) as netlink, contextlib.suppress(NotFound):
        _tell_host(netlink, record, record.own.mac)
        for address in record.moved:
            netlink.remove_neighbour(record.host_device, address)


async def sweep(*, keep: Collection[str]) -> None:
    """Remove the address translation of sandboxes that nobody knows any more.

    Args: keep: names of the tables that stay.
    """

    def inside() -> None:
        with contextlib.closing(Nft()) as nft:
            for family, table in nft.tables():
                if table.startswith(_TABLE_PREFIX) and table not in keep:
                    _log.warning("removing the table %s of a sandbox that is gone", table)
                    nft.remove(family, table)

    async with NetnsThread(None) as thread:
        await thread.run(inside)
