"""What is worth keeping of a network interface, as values that travel in an archive.

Pure: nothing here talks to a kernel. The JSON comes back from archives that anybody may have
written, so reading it trusts nothing: every number has a range, every list a bound, every address
is parsed.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import asdict, dataclass, replace
from typing import Any

from crishim.errors import Corrupt, Unsupported

SCOPE_LINK = 253
SCOPE_UNIVERSE = 0

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,15}")
_LIST_MAX = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An address of an interface: "10.0.0.2" or "fd00::2", its prefix length and scope."""

    address: str
    prefix_bits: int
    scope: int = SCOPE_UNIVERSE

    @property
    def version(self) -> int:
        """4 or 6."""
        return ipaddress.ip_address(self.address).version

    @property
    def is_global(self) -> bool:
        """Whether the address means something beyond its link."""
        return self.scope == SCOPE_UNIVERSE


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A unicast route of the main table through the interface.

    Attributes:
        destination: a network, "10.0.0.0/24" or "::/0".
        gateway: "" for what is on the link.
        source: the preferred source address; "" for none.
        on_link: reach the gateway without a route to it.
    """

    destination: str
    gateway: str = ""
    source: str = ""
    scope: int = SCOPE_UNIVERSE
    metric: int = 0
    protocol: int = 0
    on_link: bool = False

    @property
    def version(self) -> int:
        """4 or 6."""
        return ipaddress.ip_network(self.destination).version


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """Whose hardware address is known on the link."""

    address: str
    mac: str
    permanent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceState:
    """All of an interface that open connections depend on."""

    name: str
    mac: str
    mtu_bytes: int
    addresses: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()

    @property
    def global_addresses(self) -> tuple[str, ...]:
        """The addresses that others reach it by, in the interface's order."""
        return tuple(item.address for item in self.addresses if item.is_global)

    def bounded(self) -> InterfaceState:
        """Return it as `from_json` takes it back: of too many neighbours the last are left out.

        The kernel asks for a neighbour that it does not know.
        Raises: Unsupported: too many routes or addresses, of which none can be left out.
        """
        for what, items in (("routes", self.routes), ("addresses", self.addresses)):
            if len(items) > _LIST_MAX:
                raise Unsupported(
                    f"the interface {self.name} has {len(items)} {what}",
                    hint=f"{_LIST_MAX} are kept at most",
                )
        if len(self.neighbours) <= _LIST_MAX:
            return self
        ordered = sorted(self.neighbours, key=lambda neighbour: not neighbour.permanent)
        return replace(self, neighbours=tuple(ordered[:_LIST_MAX]))

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts and lists for `json.dumps`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: object) -> InterfaceState:
        """Read back what `to_json` gave; raise Corrupt for anything else."""
        fields = _fields(data, cls)
        return cls(
            name=_text(fields["name"], pattern=_NAME),
            mac=_text(fields["mac"], pattern=_MAC),
            mtu_bytes=_number(fields["mtu_bytes"], low=68, high=1 << 20),
            addresses=tuple(_address(item) for item in _list(fields["addresses"])),
            routes=tuple(route_from_json(item) for item in _list(fields["routes"])),
            neighbours=tuple(_neighbour(item) for item in _list(fields["neighbours"])),
        )


def _address(data: object) -> Address:
    fields = _fields(data, Address)
    address = _ip(fields["address"])
    ip = ipaddress.ip_address(address)
    if ip.is_multicast or ip.is_unspecified or ip.is_loopback:
        raise Corrupt(f"{address} cannot be a pod's address")
    return Address(
        address=address,
        prefix_bits=_number(fields["prefix_bits"], low=1, high=ip.max_prefixlen),
        scope=_number(fields["scope"], low=0, high=255),
    )


def route_from_json(data: object) -> Route:
    """Read back one route; raise Corrupt for anything else."""
    fields = _fields(data, Route)
    try:
        if not isinstance(fields["destination"], str):
            raise ValueError("not text")
        destination = ipaddress.ip_network(fields["destination"])
    except ValueError as error:
        raise Corrupt(f"bad route destination {fields['destination']!r:.80}") from error
    route = Route(
        destination=str(destination),
        gateway=_ip(fields["gateway"], optional=True),
        source=_ip(fields["source"], optional=True),
        scope=_number(fields["scope"], low=0, high=255),
        metric=_number(fields["metric"], low=0, high=(1 << 32) - 1),
        protocol=_number(fields["protocol"], low=0, high=255),
        on_link=fields["on_link"] is True,
    )
    for text in (route.gateway, route.source):
        if text and ipaddress.ip_address(text).version != destination.version:
            raise Corrupt(f"the route to {destination} mixes address families")
    return route


def _neighbour(data: object) -> Neighbour:
    fields = _fields(data, Neighbour)
    return Neighbour(
        address=_ip(fields["address"]),
        mac=_text(fields["mac"], pattern=_MAC),
        permanent=fields["permanent"] is True,
    )


def _fields(data: object, cls: type) -> dict[str, Any]:
    names = set(cls.__dataclass_fields__)  # type: ignore[attr-defined]
    if not isinstance(data, dict) or set(data) != names:
        raise Corrupt(f"not a record of {cls.__name__}")
    return data


def _list(data: object) -> list[object]:
    if not isinstance(data, list | tuple) or len(data) > _LIST_MAX:
        raise Corrupt(f"not a list of at most {_LIST_MAX} items")
    return list(data)


def _text(data: object, *, pattern: re.Pattern[str]) -> str:
    if not isinstance(data, str) or not pattern.fullmatch(data):
        raise Corrupt(f"bad text {data!r:.80}")
    return data


def _number(data: object, *, low: int, high: int) -> int:
    if not isinstance(data, int) or isinstance(data, bool) or not low <= data <= high:
        raise Corrupt(f"{data!r:.80} is not a number from {low} to {high}")
    return data


def _ip(data: object, *, optional: bool = False) -> str:
    if data == "" and optional:
        return ""
    try:
        if not isinstance(data, str) or "%" in data:
            raise ValueError("not text, or with a zone")
        return str(ipaddress.ip_address(data))
    except ValueError as error:
        raise Corrupt(f"{data!r:.80} is not an address") from error
