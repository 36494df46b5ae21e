"""The nftables texts behind a hold. Pure: values in, text out; nothing here touches a kernel.

Every operation has a table of its own under one prefix, so that undoing is deleting one table and
what a crash left is found by name. Whole-namespace rules sit on the netdev hooks, before the stack
sees a frame: ARP, neighbour discovery, IPv4 and IPv6 alike stay unanswered.

Source: nft(8), "ADDRESS FAMILIES", netdev; Linux 5.16 for the egress hook.
"""

from __future__ import annotations

import ipaddress
import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

PREFIX = "crishim_hold_"
_PRIORITY = -500


def new_table() -> str:
    """Return a table name that no other operation has."""
    return PREFIX + secrets.token_hex(6)


def source(table: str, *, interface: str, lasting: bool) -> str:
    """Drop every frame of a pod's interface, both ways, and of its loopback.

    Loopback too: of two dumped sockets that talk to each other one must not take data after it was
    dumped that the other, dumped later, then counts as delivered.

    Args: lasting: stand after our process; otherwise the kernel removes the table with our socket,
        which is right as long as the container goes on living.
    """
    flags = "" if lasting else "flags owner; "
    return (
        f"table netdev {table} {{ {flags}"
        f"{_chain('in', interface, hook='ingress')}"
        f"{_chain('out', interface, hook='egress')}"
        f"{_chain('loop', 'lo', hook='ingress')}"
        "}"
    )


def target(table: str, *, interface: str) -> str:
    """Drop every frame that comes in; what the restored sockets send first must get out."""
    return f"table netdev {table} {{ {_chain('in', interface, hook='ingress')}}}"


def syn(table: str, *, interface: str) -> str:
    """Drop what would begin a TCP connection to the pod, and nothing else; for our life only."""
    body = "tcp flags & (syn | ack) == syn drop;"
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


def _chain(name: str, device: str, *, hook: str, body: str = "") -> str:
    policy = "accept" if body else "drop"
    return (
        f'chain {name} {{ type filter hook {hook} device "{device}" priority {_PRIORITY}; '
        f"policy {policy}; {body} }}; "
    )
