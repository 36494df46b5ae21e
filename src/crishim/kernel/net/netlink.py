"""Interfaces, addresses, routes and neighbours of one network namespace, over rtnetlink.

A `Netlink` is a warm conversation with the namespace of the thread that makes it, and only that
thread uses it. Every call that changes something may be repeated. This module knows nothing of
pods; what an interface's state means to connections is decided above.

Source: rtnetlink(7); pyroute2 0.9.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Any

from pyroute2 import IPRoute
from pyroute2.netlink import NLM_F_DUMP_INTR
from pyroute2.netlink.exceptions import NetlinkError

from crishim.errors import NotFound, Precondition
from crishim.kernel.net.interface import Address, InterfaceState, Neighbour, Route

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_MAIN_TABLE = 254
_UNICAST = 1
_PROTOCOLS_OF_OTHERS = (1, 9)  # ICMP redirects and router advertisements come again by themselves
_ONLINK = 4
_NODAD = 0x02
_NOPREFIXROUTE = 0x200
_FOREVER = 0xFFFFFFFF
_NUD_STALE = 0x04
_NUD_REACHABLE = 0x02
_NUD_PERMANENT = 0x80
_NUD_USABLE = 0x02 | 0x04 | 0x08 | 0x10 | _NUD_PERMANENT
_FIXED_BY_US = 203
"""Marks the neighbour entries that are ours, as a route's protocol marks routes."""
_FAMILY = {4: 2, 6: 10}
_DUMPS_MAX = 20
_DEFAULT = {2: "0.0.0.0/0", 10: "::/0"}


class Netlink:
    """A conversation with the kernel about the links of one namespace."""

    def __init__(self) -> None:
        self._ipr: Any = IPRoute()
        self._indices: dict[str, int] = {}

    def close(self) -> None:
        """End the conversation. Safe to repeat."""
        self._ipr.close()

    def read(self, name: str) -> InterfaceState:
        """Return the state of an interface.

        Raises: NotFound: there is none. Unsupported: there is more of it than can be kept.
        """
        link = self._link(name)
        index: int = link["index"]
        return InterfaceState(
            name=name,
            mac=link.get("address"),
            mtu_bytes=link.get("mtu"),
            addresses=self._addresses(index),
            routes=self._routes(index),
            neighbours=self._neighbours(index),
        ).bounded()

    def all_addresses(self) -> frozenset[str]:
        """Return the addresses of every interface of the namespace."""
        found = _dump(self._ipr.get_addr)
        return frozenset(item.get("local") or item.get("address") for item in found)

    def impose(self, state: InterfaceState) -> None:
        """Make MAC, addresses, routes and neighbours of an interface those of `state`.

        Addresses and routes of the interface that `state` does not name are removed; the MTU stays,
        because it belongs to the network under the interface. IPv6 addresses skip duplicate
        detection: a tentative address cannot be bound, and looking for a duplicate is the caller's
        part, earlier.

        Raises:
            NotFound: no such interface.
            Precondition: the kernel refuses an address or a route, for instance where IPv6 is off.
        """
        now = self.read(state.name)
        index = self.index(state.name)
        kept_links = {item for item in state.addresses if not item.is_global}
        for address in now.addresses:
            if address.is_global or (kept_links and address not in kept_links):
                self.remove_address(state.name, address)
        if now.mac != state.mac:
            _tolerate(
                (),
                f"{state.name} cannot have the hardware address {state.mac}",
                lambda: self._ipr.link("set", index=index, address=state.mac),
            )
        for address in state.addresses:
            self.add_address(state.name, address)
        for route in self._routes(index):
            if route not in state.routes:
                self.remove_route(state.name, route)
        for route in sorted(state.routes, key=lambda route: bool(route.gateway)):
            self.replace_route(state.name, route)
        for neighbour in state.neighbours:
            self.set_neighbour(state.name, neighbour)

    def add_address(self, name: str, address: Address, *, deprecated: bool = False) -> None:
        """Give an interface an address, without the routes the kernel would make for it.

        Args: deprecated: reachable, but not chosen for new connections.
        """
        index = self.index(name)
        flags = _NODAD if address.version == 6 else 0
        if address.is_global:
            flags |= _NOPREFIXROUTE
        lifetimes = {"preferred_lft": 0, "valid_lft": _FOREVER} if deprecated else {}
        _tolerate(
            (errno.EEXIST,) if address.is_global else (errno.EEXIST, errno.EACCES),
            f"{name} cannot have the address {address.address}",
            lambda: self._ipr.addr(
                "replace",
                index=index,
                family=_FAMILY[address.version],
                address=address.address,
                prefixlen=address.prefix_bits,
                scope=address.scope,
                flags=flags,
                **lifetimes,
            ),
        )

    def remove_address(self, name: str, address: Address) -> None:
        """Take an address from an interface, if it has it."""
        index = self.index(name)
        _tolerate(
            (errno.EADDRNOTAVAIL,),
            f"{name} does not let go of the address {address.address}",
            lambda: self._ipr.addr(
                "del",
                index=index,
                family=_FAMILY[address.version],
                address=address.address,
                prefixlen=address.prefix_bits,
            ),
        )

    def replace_route(self, name: str, route: Route) -> None:
        """Set a route through an interface, in place of one to the same destination."""
        request = self._route_request(name, route)
        _tolerate(
            (errno.EEXIST,),
            f"no route to {route.destination} through {name}",
            lambda: self._ipr.route("replace", **request),
        )

    def remove_route(self, name: str, route: Route) -> None:
        """Take a route through an interface away, if it is there."""
        request = self._route_request(name, route)
        _tolerate(
            (errno.ESRCH, errno.ENOENT),
            f"the route to {route.destination} through {name} stays",
            lambda: self._ipr.route("del", **request),
        )

    def routes(self, name: str) -> tuple[Route, ...]:
        """Return the main table's routes through an interface."""
        return self._routes(self.index(name))

    def set_neighbour(self, name: str, neighbour: Neighbour, *, reachable: bool = False) -> None:
        """Tell an interface a neighbour's hardware address.

        Args: reachable: believe it without asking for some seconds, in place of verifying it after
            the first use.
        """
        state = _NUD_REACHABLE if reachable else _NUD_STALE
        index = self.index(name)
        _tolerate(
            (),
            f"{name} cannot be told its neighbour {neighbour.address}",
            lambda: self._ipr.neigh(
                "replace",
                ifindex=index,
                dst=neighbour.address,
                lladdr=neighbour.mac,
                state=_NUD_PERMANENT if neighbour.permanent else state,
            ),
        )

    def fix_neighbours(self, name: str, addresses: Iterable[str], mac: str) -> None:
        """Tell an interface a hardware address for good: the kernel never asks and never gives up.

        A permanent entry that somebody else has made stays theirs. A family that the interface does
        not speak needs none.
        """
        index = self.index(name)
        permanent = {item.address for item in self._neighbours(index) if item.permanent}
        for address in set(addresses) - (permanent - self.fixed_neighbours()):
            with contextlib.suppress(NetlinkError):
                self._ipr.neigh(
                    "replace",
                    ifindex=index,
                    dst=address,
                    lladdr=mac,
                    state=_NUD_PERMANENT,
                    protocol=_FIXED_BY_US,
                )

    def fixed_neighbours(self) -> frozenset[str]:
        """Return the addresses that `fix_neighbours` was told, by any process, on any interface."""
        return frozenset(item.get("dst") for item in self._fixed())

    def loosen_neighbours(self, addresses: Iterable[str]) -> None:
        """Forget what `fix_neighbours` was told of addresses; other entries stay."""
        wanted = set(addresses)
        for item in self._fixed():
            if item.get("dst") in wanted:
                self._forget_neighbour(item["ifindex"], item.get("dst"))

    def remove_neighbour(self, name: str, address: str) -> None:
        """Forget what an interface knows of a neighbour."""
        self._forget_neighbour(self.index(name), address)

    def addresses_by_name(self) -> dict[str, frozenset[str]]:
        """Return the addresses of each interface of the namespace that has some."""
        names = {link["index"]: str(link.get("ifname")) for link in _dump(self._ipr.get_links)}
        found: dict[str, frozenset[str]] = {}
        for item in _dump(self._ipr.get_addr):
            name = names.get(item["index"], "")
            address = item.get("local") or item.get("address")
            found[name] = found.get(name, frozenset()) | {address}
        return found

    def kind(self, name: str) -> str:
        """Return what an interface is, such as "veth"; "" for a device of the machine."""
        return str(self._link(name).get(("linkinfo", "kind")) or "")

    def peer_index(self, name: str) -> int:
        """Return the index that the other end of a veth has in its own namespace."""
        link = self._link(name)
        index = link.get("link")
        if not index or link.get("link_netnsid") is None:
            raise Precondition(f"{name} is no veth with its other end in another namespace")
        return int(index)

    def index(self, name: str) -> int:
        """Return an interface's index; it is asked for once in this conversation."""
        if name not in self._indices:
            self._indices[name] = int(self._link(name)["index"])
        return self._indices[name]

    def find_peer(self, netns: str, *, index: int, peer_index: int) -> str:
        """Return the name of our end of a veth whose other end is in another namespace.

        Args: netns: path of the other namespace. index: of our end. peer_index: of the other.
        Raises: NotFound: there is no such pair.
        """
        fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            answer = self._ipr.get_netnsid(fd=fd)
        finally:
            os.close(fd)
        for link in _dump(self._ipr.get_links, index):
            far = (link.get("link"), link.get("link_netnsid"))
            if far == (peer_index, answer["nsid"]):
                return str(link.get("ifname"))
        raise NotFound(f"interface {index} is not the host's end of a veth into {netns}")

    def master(self, name: str) -> str:
        """Return the bridge an interface is a port of; "" if none."""
        index = self._link(name).get("master")
        return str(_dump(self._ipr.get_links, index)[0].get("ifname")) if index else ""

    def _link(self, name: str) -> Any:
        for link in _dump(self._ipr.get_links, ifname=name):
            return link
        raise NotFound(f"there is no interface {name}")

    def _addresses(self, index: int) -> tuple[Address, ...]:
        return tuple(
            Address(
                address=item.get("local") or item.get("address"),
                prefix_bits=item["prefixlen"],
                scope=item["scope"],
            )
            for item in _dump(self._ipr.get_addr, index=index)
        )

    def _routes(self, index: int) -> tuple[Route, ...]:
        found = (
            _route(item)
            for family in _DEFAULT
            for item in _dump(self._ipr.get_routes, family=family, table=_MAIN_TABLE, oif=index)
            if item.get("oif") == index
            and item.get("table") == _MAIN_TABLE
            and item["type"] == _UNICAST
            and item["proto"] not in _PROTOCOLS_OF_OTHERS
            and item.get("via") is None
        )
        return tuple(route for route in found if route.destination not in ("fe80::/64", "ff00::/8"))

    def _neighbours(self, index: int) -> tuple[Neighbour, ...]:
        return tuple(
            Neighbour(
                address=item.get("dst"),
                mac=item.get("lladdr"),
                permanent=item["state"] == _NUD_PERMANENT,
            )
            for item in _dump(self._ipr.get_neighbours, ifindex=index)
            if item["ifindex"] == index and item["state"] & _NUD_USABLE and item.get("lladdr")
        )

    def _fixed(self) -> list[Any]:
        return [
            item
            for item in _dump(self._ipr.get_neighbours)
            if item["state"] == _NUD_PERMANENT and item.get("protocol") == _FIXED_BY_US
        ]

    def _forget_neighbour(self, index: int, address: str) -> None:
        _tolerate(
            (errno.ENOENT, errno.ESRCH, errno.ENODEV),
            f"interface {index} keeps its neighbour {address}",
            lambda: self._ipr.neigh("del", ifindex=index, dst=address),
        )

    def _route_request(self, name: str, route: Route) -> dict[str, Any]:
        request = {
            "family": _FAMILY[route.version],
            "table": _MAIN_TABLE,
            "oif": self.index(name),
            "dst": route.destination,
            "scope": route.scope,
            "proto": route.protocol,
            "flags": _ONLINK if route.on_link else 0,
            "gateway": route.gateway or None,
            "prefsrc": route.source or None,
            "priority": route.metric or None,
        }
        return {key: value for key, value in request.items() if value is not None}


def _route(item: Any) -> Route:
    family = item["family"]
    destination = item.get("dst")
    return Route(
        destination=f"{destination}/{item['dst_len']}" if destination else _DEFAULT[family],
        gateway=item.get("gateway") or "",
        source=item.get("prefsrc") or "",
        scope=item["scope"],
        metric=item.get("priority") or 0,
        protocol=item["proto"],
        on_link=bool(item["flags"] & _ONLINK),
    )


def _dump(ask: Callable[..., Iterable[Any]], *args: object, **filters: object) -> list[Any]:
    """Return a list of the kernel's that nothing changed while it was being read.

    pyroute2 0.9 passes on the kernel's mark of a list that may lack entries, and ignores it.
    Raises: NotFound: there is no such interface (any more). Precondition: the kernel refuses, or
        its list changes faster than it can be read.
    """
    for _ in range(_DUMPS_MAX):
        try:
            found = list(ask(*args, **filters))
        except NetlinkError as error:
            kind = NotFound if error.code in (errno.ENODEV, errno.ENXIO) else Precondition
            raise kind("the kernel does not list it", details=os.strerror(error.code)) from error
        if not any(item["header"]["flags"] & NLM_F_DUMP_INTR for item in found):
            return found
    raise Precondition("the kernel's list of interfaces, addresses or routes does not stand still")


def _tolerate(numbers: Iterable[int], brief: str, call: Callable[[], object]) -> None:
    try:
        call()
    except NetlinkError as error:
        if error.code not in numbers:
            raise Precondition(brief, details=os.strerror(error.code)) from error
