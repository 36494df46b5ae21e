"""What a preserved interface becomes in a new place. Pure: states in, states out.

The new sandbox has its own gateway, its own veth and perhaps another node's subnet. The preserved
addresses and MAC are kept whatever they are; what leads to and from them is fitted to the place.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import TYPE_CHECKING

from crishim.kernel.net.interface import SCOPE_LINK, SCOPE_UNIVERSE, Neighbour, Route

if TYPE_CHECKING:
    from crishim.kernel.net.interface import InterfaceState

_VERSIONS = (4, 6)


def placed(
    preserved: InterfaceState, *, own: InterfaceState, host: InterfaceState
) -> InterfaceState:
    """Return the state that the new sandbox's interface is to have.

    Args:
        preserved: as it was at the checkpoint.
        own: as CNI made the new one.
        host: the node's interface on the other side: the bridge, or the veth's end.
    """
    routes = tuple(
        route
        for version in _VERSIONS
        for route in _routes(preserved, own=own, host=host, version=version)
    )
    return dataclasses.replace(
        preserved,
        name=own.name,
        mtu_bytes=own.mtu_bytes,
        routes=routes,
        neighbours=_neighbours(preserved, host=host),
    )


def moved(preserved: InterfaceState, own: InterfaceState) -> tuple[str, ...]:
    """Return the preserved addresses that CNI did not give the new sandbox anyway."""
    return tuple(item for item in preserved.global_addresses if item not in own.global_addresses)


def astray(preserved: InterfaceState, own: InterfaceState) -> tuple[str, ...]:
    """Return the preserved addresses outside the subnets that CNI gives pods of this node.

    Where CNI's own address names no subnet, nothing is known of its others.
    """
    networks = [
        ipaddress.ip_interface(f"{item.address}/{item.prefix_bits}").network
        for item in own.addresses
        if item.is_global
    ]
    subnets = [network for network in networks if network.num_addresses > 1]
    found = []
    for address in moved(preserved, own):
        ip = ipaddress.ip_address(address)
        same_family = [network for network in subnets if network.version == ip.version]
        if same_family and not any(ip in network for network in same_family):
            found.append(address)
    return tuple(found)


def host_routes(
    preserved: InterfaceState, *, own: InterfaceState, host: InterfaceState
) -> tuple[Route, ...]:
    """Return the routes by which the node reaches the moved addresses through `host`.

    Where CNI routes each pod on its own, its route is the pattern; on a bridge only an address
    outside the bridge's subnets needs one.
    """
    patterns = {
        route.version: route
        for route in host.routes
        if route.destination in {_single(address) for address in own.global_addresses}
    }
    networks = [
        ipaddress.ip_interface(f"{item.address}/{item.prefix_bits}").network
        for item in host.addresses
        if item.is_global
    ]
    found = []
    for address in moved(preserved, own):
        ip = ipaddress.ip_address(address)
        plain = Route(
            destination=_single(address), scope=SCOPE_LINK if ip.version == 4 else SCOPE_UNIVERSE
        )
        if patterns:
            pattern = patterns.get(ip.version, plain)
            found.append(dataclasses.replace(pattern, destination=plain.destination))
        elif not any(ip in network for network in networks):
            found.append(plain)
    return tuple(found)


def _single(address: str) -> str:
    return str(ipaddress.ip_network(address))


def _routes(
    preserved: InterfaceState, *, own: InterfaceState, host: InterfaceState, version: int
) -> list[Route]:
    """Keep the preserved routes if their gateways are here too; else fit CNI's to the address."""
    kept = [route for route in preserved.routes if route.version == version]
    here = [route for route in own.routes if route.version == version]
    gateways = {route.gateway for route in here} | {item.address for item in host.addresses}
    if not here or {route.gateway for route in kept if route.gateway} <= gateways:
        return kept
    sources = [item.address for item in preserved.addresses if item.is_global]
    source = next((item for item in sources if ipaddress.ip_address(item).version == version), "")
    return [dataclasses.replace(route, source=source if route.source else "") for route in here]


def _neighbours(preserved: InterfaceState, *, host: InterfaceState) -> tuple[Neighbour, ...]:
    """Keep the preserved neighbours, but for the node itself: its end has another MAC here."""
    nodes = tuple(
        Neighbour(address=item.address, mac=host.mac) for item in host.addresses if item.is_global
    )
    known = {item.address for item in nodes}
    return tuple(item for item in preserved.neighbours if item.address not in known) + nodes
