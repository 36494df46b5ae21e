"""The nftables texts behind a hold and a moved address. Pure: values in, text out.

Every operation has a table of its own under one prefix, so that undoing is deleting one table and
what a crash left is found by name. Whole-namespace rules sit on the netdev hooks, before the stack
sees a frame: ARP, neighbour discovery, IPv4 and IPv6 alike stay unanswered.

Source: nft(8), "ADDRESS FAMILIES", netdev; Linux 5.16 for the egress hook.
"""

from __future__ import annotations

import ipaddress
import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from crishim.errors import Precondition

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from crishim.network.cni import PortMapping
    from crishim.network.sockets import HeldSockets

PREFIX = "crishim_hold_"
_PRIORITY = -500
_PROTOCOLS = ("tcp", "udp", "sctp")
_ENDS = "tcp flags & (fin | rst) != 0 drop;"
_TUPLES_OUT = (
    "ip daddr . tcp dport . ip saddr . tcp sport @tcp4",
    "ip6 daddr . tcp dport . ip6 saddr . tcp sport @tcp6",
)


def new_table() -> str:
    """Return a table name that no other operation has."""
    return PREFIX + secrets.token_hex(6)


def source(table: str, *, interface: str, lasting: bool, sockets: HeldSockets | None) -> str:
    """Drop every frame of a pod's interface, both ways, and TCP on its loopback.

    Loopback too: of two dumped sockets that talk to each other one must not take data after it was
    dumped that the other, dumped later, then counts as delivered. TCP sends again what is dropped
    there, and nothing else does: a datagram that a process sends to itself as soon as it runs again
    would be lost, and one that was on its way when it was frozen is looked for in its queue.

    Args:
        lasting: stand after our process; otherwise the kernel removes the table with our socket,
            which is right as long as the container goes on living.
        sockets: drop only what belongs to these sockets; None for everything.
    """
    flags = "" if lasting else "flags owner; "
    into, out, loop = "", "", "meta l4proto tcp drop; "
    if sockets:
        into, out = _into(sockets), _out_of(sockets)
        tcp = replace(sockets, udp_ports=frozenset())
        loop = _into(tcp) + _out_of(tcp)
    return (
        f"table netdev {table} {{ {flags}{_sets(sockets) if sockets else ''}"
        f"{_chain('in', interface, hook='ingress', body=into)}"
        f"{_chain('out', interface, hook='egress', body=out)}"
        f"{_chain('loop', 'lo', hook='ingress', body=loop)}"
        "}"
    )


def target(table: str, *, interface: str, sockets: HeldSockets | None) -> str:
    """Drop every frame that comes in, and each end of a connection that would go out.

    What the restored sockets send first must get out; but if the restore fails when the sockets are
    alive already, their end must not reach anybody: another restore may follow.
    """
    body = _into(sockets) if sockets else ""
    ends = " ".join(f"{match} {_ENDS}" for match in _TUPLES_OUT) if sockets else _ENDS
    return (
        f"table netdev {table} {{ {_sets(sockets) if sockets else ''}"
        f"{_chain('in', interface, hook='ingress', body=body)}"
        f"{_chain('out', interface, hook='egress', body=ends)}}}"
    )


def sealed(table: str, *, interface: str) -> str:
    """Put in place of a target's table, at one moment, one that lets nothing out either."""
    text = source(table, interface=interface, lasting=True, sockets=None)
    return f"delete table netdev {table}\n{text}"


def syn(table: str, *, interface: str, ports: Collection[int] | None) -> str:
    """Drop what would begin a TCP connection to the pod, and nothing else; for our life only.

    Args: ports: only to these; None for all.
    """
    numbers = ", ".join(str(port) for port in sorted(ports or ()))
    to = f"tcp dport {{ {numbers} }} " if numbers else ""
    body = f"{to}tcp flags & (syn | ack) == syn drop;" if ports is None or numbers else " "
    chain = _chain("in", interface, hook="ingress", body=body)
    return f"table netdev {table} {{ flags owner; {chain}}}"


def node(table: str, addresses: Iterable[str]) -> str:
    """Drop what the node would route or send to `addresses`, before it can call them unreachable.

    Without a pod behind an address a router answers ICMP errors, which end connections.
    """
    chains = {"route": "prerouting", "own": "output"}
    body = " ".join(
        f"{'ip' if ipaddress.ip_address(address).version == 4 else 'ip6'} daddr {address} drop;"
        for address in addresses
    )
    text = "".join(
        f"chain {name} {{ type filter hook {hook} priority {_PRIORITY}; policy accept; {body} }}; "
        for name, hook in chains.items()
    )
    return f"table inet {table} {{ {text}}}"


def _sets(sockets: HeldSockets) -> str:
    ends: dict[int, list[str]] = {4: [], 6: []}
    for item in sorted(sockets.connections):
        version = ipaddress.ip_address(item.local).version
        ends[version].append(
            f"{item.remote} . {item.remote_port} . {item.local} . {item.local_port}"
        )
    quad = "type {0} . inet_service . {0} . inet_service;"
    return (
        _set("tcp4", quad.format("ipv4_addr"), ends[4])
        + _set("tcp6", quad.format("ipv6_addr"), ends[6])
        + _set("tcp_ports", "type inet_service;", [str(port) for port in sorted(sockets.tcp_ports)])
        + _set("udp_ports", "type inet_service;", [str(port) for port in sorted(sockets.udp_ports)])
    )


def _set(name: str, kind: str, elements: Sequence[str]) -> str:
    listed = f"elements = {{ {', '.join(elements)} }};" if elements else ""
    return f"set {name} {{ {kind} {listed} }}; "


def _into(sockets: HeldSockets) -> str:
    ports = (
        "tcp dport @tcp_ports tcp flags & (syn | ack) == syn drop; " if sockets.tcp_ports else ""
    )
    ports += "udp dport @udp_ports drop; " if sockets.udp_ports else ""
    return (
        "ip saddr . tcp sport . ip daddr . tcp dport @tcp4 drop; "
        f"ip6 saddr . tcp sport . ip6 daddr . tcp dport @tcp6 drop; {ports}"
    )


def _out_of(sockets: HeldSockets) -> str:
    ports = "udp sport @udp_ports drop; " if sockets.udp_ports else ""
    return f"{_TUPLES_OUT[0]} drop; {_TUPLES_OUT[1]} drop; {ports}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """An address that a pod has in addition to CNI's own, and the subnet CNI counts it to."""

    address: str
    subnet: str

    @property
    def family(self) -> str:
        """The family's word in nft."""
        return "ip" if ipaddress.ip_address(self.address).version == 4 else "ip6"

    def target(self, port: int) -> str:
        """The address with a port, as nft writes it."""
        return f"{self.address}:{port}" if self.family == "ip" else f"[{self.address}]:{port}"


def nat(
    table: str, moved: Sequence[Moved], *, masquerade: bool, mappings: Iterable[PortMapping]
) -> str:
    """Do for moved addresses what CNI's plugins do for the ones they gave; "" if nothing.

    Only a connection's first segment is masqueraded: where the node has forgotten a kept
    connection, any other segment would make it a new one with another source address. The
    priorities come before those of iptables, and the first chain that translates decides.

    Raises: Precondition: a mapping is none that nft could be told; it comes from the pod's object.
    Source: plugins/main/bridge (ipMasq) and plugins/meta/portmap of the CNI plugins 1.9.
    """
    entry = "".join(_to_pod(moved, mapping) for mapping in mappings)
    leave = "".join(_masquerade(item) for item in moved) if masquerade else ""
    leave += "".join(_hairpin(item) for item in moved) if entry else ""
    if not leave:
        return ""
    return (
        f"table inet {table} {{ "
        f"chain in {{ type nat hook prerouting priority -110; policy accept; {entry}}}; "
        f"chain own {{ type nat hook output priority -110; policy accept; {entry}}}; "
        f"chain out {{ type nat hook postrouting priority 90; policy accept; {leave}}}; "
        "}"
    )


def _to_pod(moved: Sequence[Moved], mapping: PortMapping) -> str:
    """Lead a port of the node to the first moved address of each family that it is open for."""
    firsts = {item.family: item for item in reversed(moved)}
    everywhere = mapping.host_ip in ("", "0.0.0.0", "::")  # noqa: S104 - read, not bound
    host = None if everywhere else _host_address(mapping)
    if mapping.protocol not in _PROTOCOLS:
        raise Precondition(f"{mapping.protocol!r:.40} is no protocol of a hostPort")
    text = ""
    for family, item in firsts.items():
        if host is None:
            match = f"fib daddr type local meta nfproto {'ipv4' if family == 'ip' else 'ipv6'}"
        elif (host.version == 4) == (family == "ip"):
            match = f"{family} daddr {host}"
        else:
            continue
        to = f"dnat {family} to {item.target(mapping.container_port)}"
        text += f"{match} {mapping.protocol} dport {mapping.host_port} {to}; "
    return text


def _host_address(mapping: PortMapping) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the address of a mapping; a zone in it may be any text, and becomes none of ours."""
    try:
        host = ipaddress.ip_address(mapping.host_ip)
        if isinstance(host, ipaddress.IPv6Address) and host.scope_id is not None:
            raise ValueError("with a zone")
    except ValueError as error:
        raise Precondition(f"{mapping.host_ip!r:.80} is no address for a hostPort") from error
    return host


def _masquerade(item: Moved) -> str:
    multicast = "224.0.0.0/4" if item.family == "ip" else "ff00::/8"
    match = (
        f"{item.family} saddr {item.address} {item.family} daddr != {item.subnet} "
        f"{item.family} daddr != {multicast}"
    )
    return (
        f"{match} tcp flags & (syn | ack) == syn masquerade; "
        f"{match} meta l4proto != tcp masquerade; "
    )


def _hairpin(item: Moved) -> str:
    """Have answers to the node itself and to the pod's own subnet come back through the node."""
    loopback = "127.0.0.0/8" if item.family == "ip" else "::1"
    return (
        f"{item.family} saddr {{ {loopback}, {item.subnet} }} {item.family} daddr {item.address} "
        "ct status dnat masquerade; "
    )


def _chain(name: str, device: str, *, hook: str, body: str = "") -> str:
    policy = "accept" if body else "drop"
    return (
        f'chain {name} {{ type filter hook {hook} device "{device}" priority {_PRIORITY}; '
        f"policy {policy}; {body} }}; "
    )
