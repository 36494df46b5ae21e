"""What CRIU drops and a restore puts back: attributes of sockets and threads, as values and JSON.

    socket options     that CRIU 4.2 does not save (`kernel/net/sockopts`)
    memberships        of multicast groups
    datagrams          that were not read yet, of a container that the checkpoint ends
    threads            processors, I/O priority, timer slack

They are an entry of the archive, `carried.json`; there is none where nothing is to be carried. Who
reads them out of a running container is `gather`, who puts them back is `putback`. This module must
never know either, nor tar.
"""

from __future__ import annotations

import json
import socket
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from crishim import strictjson
from crishim.errors import Corrupt
from crishim.kernel.net.datagrams import Datagram
from crishim.kernel.net.multicast import Group, Membership
from crishim.kernel.net.sockopts import Option

if TYPE_CHECKING:
    from collections.abc import Callable

MEMBER = "carried.json"
BYTES_MAX = 48 << 20  # a reader of archives takes entries of 64 MiB
_PIECE_BYTES = 1 << 14
_PROCESSORS_MAX = 1 << 14
_PORT_MAX = (1 << 16) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Socket:
    """A socket that needs something put back.

    Attributes:
        pid: of a process that has it open, as its pid namespace counts; `fd` is its number there.
        family, kind, protocol: of the socket; another one is not touched.
    """

    pid: int
    fd: int
    family: int
    kind: int
    protocol: int
    options: tuple[Option, ...] = ()
    memberships: tuple[Membership, ...] = ()
    datagrams: tuple[Datagram, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Thread:
    """A thread that needs something put back; ids as the pid namespace counts.

    Attributes:
        processors: those that it may run on; none if it was not bound.
        io_priority: 0 if it was given none.
        timer_slack_ns: 0 for the kernel's default.
    """

    pid: int
    tid: int
    processors: frozenset[int] = frozenset()
    io_priority: int = 0
    timer_slack_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """Everything that one container's restore puts back."""

    sockets: tuple[Socket, ...] = ()
    threads: tuple[Thread, ...] = ()

    def __bool__(self) -> bool:
        """Return whether there is anything to put back."""
        return bool(self.sockets or self.threads)


def encode(carried: Carried) -> bytes:
    """Return the text of the archive's entry."""
    return json.dumps(asdict(carried, dict_factory=_in_pieces), default=_plain).encode()


def decode(data: bytes) -> Carried:
    """Read an entry that anybody may have written.

    Raises: Corrupt: it is none.
    """
    document = strictjson.parse(data, what=MEMBER)
    return Carried(
        sockets=tuple(_socket(item) for item in document.sections("sockets")),
        threads=tuple(_thread(item) for item in document.sections("threads")),
    )


def _plain(value: object) -> Any:
    return value.hex() if isinstance(value, bytes) else sorted(value)  # type: ignore[call-overload]


def _in_pieces(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a value as a table; the data of a datagram in pieces, as no text may be so long."""
    table = dict(fields)
    if isinstance(data := table.get("data"), bytes):
        table["data"] = [data[at : at + _PIECE_BYTES] for at in range(0, len(data), _PIECE_BYTES)]
    return table


def _socket(item: strictjson.Reader) -> Socket:
    numbers = {name: item.whole(name) for name in ("pid", "fd", "family", "kind", "protocol")}
    return Socket(
        **numbers,
        options=tuple(_option(inner) for inner in item.sections("options")),
        memberships=tuple(_membership(inner) for inner in item.sections("memberships")),
        datagrams=tuple(_datagram(inner) for inner in item.sections("datagrams")),
    )


def _datagram(item: strictjson.Reader) -> Datagram:
    ports = [item.whole(name) for name in ("source_port", "destination_port")]
    data = b"".join(map(_bytes, item.texts("data")))
    if max(*ports, len(data)) > _PORT_MAX:
        raise Corrupt(f"{MEMBER}: no datagram has such a port or length")
    return Datagram(
        source=item.text("source"),
        source_port=ports[0],
        destination=item.text("destination"),
        destination_port=ports[1],
        data=data,
    )


def _option(item: strictjson.Reader) -> Option:
    return Option(
        level=item.whole("level"),
        name=item.whole("name"),
        value=_bytes(item.text("value")),
        interface=item.text("interface"),
    )


def _membership(item: strictjson.Reader) -> Membership:
    group = item.section("group")
    family = group.whole("family")
    if family not in (socket.AF_INET, socket.AF_INET6):
        raise Corrupt(f"{MEMBER}: a group is of family {family}")
    address = _address(family)
    return Membership(
        group=Group(
            family=family,
            interface=group.text("interface"),
            address=address(group.text("address")),
        ),
        exclude=item.flag("exclude"),
        sources=tuple(map(address, item.texts("sources"))),
    )


def _thread(item: strictjson.Reader) -> Thread:
    processors = frozenset(item.wholes("processors"))
    if any(number >= _PROCESSORS_MAX for number in processors):
        raise Corrupt(f"{MEMBER}: no machine has so many processors")
    return Thread(
        pid=item.whole("pid"),
        tid=item.whole("tid"),
        processors=processors,
        io_priority=item.whole("io_priority"),
        timer_slack_ns=item.whole("timer_slack_ns"),
    )


def _address(family: int) -> Callable[[str], bytes]:
    """Return what reads a packed address of that family."""
    size = 4 if family == socket.AF_INET else 16

    def read(text: str) -> bytes:
        value = _bytes(text)
        if len(value) != size:
            raise Corrupt(f"{MEMBER}: {text[:40]!r} is no address of family {family}")
        return value

    return read


def _bytes(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise Corrupt(f"{MEMBER}: {text[:40]!r} is not hexadecimal") from error
