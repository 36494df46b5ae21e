"""The sockets of a network namespace as the kernel lists them: TCP, MPTCP, UDP and UNIX.

A `SockDiag` is a conversation with the namespace of the thread that makes it. Sockets carry the
inode by which a process's file descriptors name them; inode 0 means that no process has the socket
(a connection not accepted yet, or one whose process closed it). Spoken directly, not through
pyroute2, because MPTCP cannot be asked for there and a poll must stay under a millisecond.

Source: sock_diag(7); linux/inet_diag.h, linux/unix_diag.h.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_SOCK_DESTROY = 21
_REQUEST_DUMP = 0x0301
_REQUEST_ACK = 0x0005
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_IPPROTO_MPTCP = 262
_REQ_PROTOCOL = 3
_UDIAG_SHOW_NAME_PEER = 0x01 | 0x04
_UNIX_DIAG_NAME = 0
_UNIX_DIAG_PEER = 2

_HEADER = struct.Struct("=IHHII")
_INET_REQUEST = struct.Struct("=BBBxI48s")
_INET_ANSWER = struct.Struct("=BBBB2s2s16s16sIIIIIIII")
_UNIX_REQUEST = struct.Struct("=BBHIIIII")
_UNIX_ANSWER = struct.Struct("=BBBxIII")
_ATTRIBUTE = struct.Struct("=HH")
_RECEIVE_BYTES = 1 << 17


class TcpState(IntEnum):
    """States of a TCP socket, numbered as in the kernel."""

    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6
    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11
    NEW_SYN_RECV = 12


HALF_OPEN = (TcpState.SYN_RECV, TcpState.NEW_SYN_RECV)
CLOSING = (TcpState.FIN_WAIT1, TcpState.LAST_ACK, TcpState.CLOSING)
_CLOSED = (*CLOSING, TcpState.FIN_WAIT2, TcpState.TIME_WAIT)


@dataclass(frozen=True, slots=True, kw_only=True)
class InetSocket:
    """A TCP, MPTCP or UDP socket.

    Attributes:
        receive_queue: bytes not read yet; of a listener, connections not accepted yet.
        send_queue: bytes not acknowledged yet; of a listener, the backlog's limit.
        inode: 0 for none.
    """

    version: int
    state: int
    local: str
    local_port: int
    remote: str
    remote_port: int
    receive_queue: int
    send_queue: int
    inode: int

    @property
    def local_end(self) -> str:
        """The local address and port as text, for messages."""
        return self._end(self.local, self.local_port)

    @property
    def remote_end(self) -> str:
        """The remote address and port as text, for messages."""
        return self._end(self.remote, self.remote_port)

    def _end(self, host: str, port: int) -> str:
        host = host.removeprefix("::ffff:") if "." in host else host
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnixSocket:
    """A UNIX socket; `peer_inode` 0 for none, `name` "" or "@abstract" or a path."""

    kind: int
    state: int
    inode: int
    peer_inode: int
    name: str


class SockDiag:
    """A conversation about sockets with one namespace; close it."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG
        )
        self._socket.settimeout(5.0)

    def close(self) -> None:
        """Close the conversation. Safe to repeat."""
        self._socket.close()

    def tcp(self, states: Iterable[TcpState] = tuple(TcpState)) -> list[InetSocket]:
        """Return the TCP sockets in those states, IPv4 then IPv6."""
        return self._inet(socket.IPPROTO_TCP, states)

    def udp(self) -> list[InetSocket]:
        """Return the UDP sockets that have a port."""
        return self._inet(socket.IPPROTO_UDP, tuple(TcpState))

    def mptcp(self) -> list[InetSocket]:
        """Return the MPTCP sockets, listening ones included; [] where the kernel has none."""
        attribute = _ATTRIBUTE.pack(8, _REQ_PROTOCOL) + struct.pack("=I", _IPPROTO_MPTCP)
        try:
            return self._inet(socket.IPPROTO_RAW, tuple(TcpState), attribute)
        except FileNotFoundError:
            return []

    def unix(self) -> list[UnixSocket]:
        """Return the UNIX sockets whose names belong to this network namespace."""
        request = _UNIX_REQUEST.pack(
            socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, _UDIAG_SHOW_NAME_PEER, 0, 0
        )
        return [_unix_socket(answer) for answer in self._dump(request)]

    def end_closed(self, addresses: Collection[str]) -> int:
        """Forget TCP connections that no process has any more and that are not over yet.

        Their peers are sent a reset, which a hold is to catch if they must not know.

        Args: addresses: local ones.
        Returns: how many there were.
        Raises: OSError: EOPNOTSUPP where the kernel cannot (CONFIG_INET_DIAG_DESTROY).
        """
        found = 0
        for answer in list(self._inet_answers(socket.IPPROTO_TCP, _CLOSED)):
            closed = _inet_socket(answer)
            if closed.inode or closed.local.removeprefix("::ffff:") not in addresses:
                continue
            family, states = answer[0], 1 << closed.state
            request = _INET_REQUEST.pack(family, socket.IPPROTO_TCP, 0, states, answer[4:52])
            with contextlib.suppress(FileNotFoundError):  # it was over by itself
                self._ask(_SOCK_DESTROY, _REQUEST_ACK, request)
            found += 1
        return found

    def _inet(
        self, protocol: int, states: Iterable[TcpState], attributes: bytes = b""
    ) -> list[InetSocket]:
        return [_inet_socket(answer) for answer in self._inet_answers(protocol, states, attributes)]

    def _inet_answers(
        self, protocol: int, states: Iterable[TcpState], attributes: bytes = b""
    ) -> Iterator[bytes]:
        mask = sum(1 << state for state in states)
        for family in (socket.AF_INET, socket.AF_INET6):
            yield from self._dump(_INET_REQUEST.pack(family, protocol, 0, mask, b"") + attributes)

    def _ask(self, kind: int, flags: int, request: bytes) -> None:
        """Send a request that is answered by its success only."""
        length = _HEADER.size + len(request)
        self._socket.send(_HEADER.pack(length, kind, flags, 1, 0) + request)
        data = self._socket.recv(_RECEIVE_BYTES)
        if number := -struct.unpack_from("=i", data, _HEADER.size)[0]:
            raise OSError(number, f"sock_diag: {os.strerror(number)}")

    def _dump(self, request: bytes) -> Iterator[bytes]:
        length = _HEADER.size + len(request)
        self._socket.send(_HEADER.pack(length, _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0) + request)
        while True:
            data = self._socket.recv(_RECEIVE_BYTES)
            at = 0
            while at + _HEADER.size <= len(data):
                size, kind, _, _, _ = _HEADER.unpack_from(data, at)
                body = data[at + _HEADER.size : at + size]
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    number = -struct.unpack_from("=i", body)[0]
                    raise OSError(number, f"sock_diag: {os.strerror(number)}")
                yield body
                at += (size + 3) & ~3


def _inet_socket(answer: bytes) -> InetSocket:
    fields = _INET_ANSWER.unpack_from(answer)
    family, state, _, _, source_port, destination_port, source, destination = fields[:8]
    receive_queue, send_queue, _, inode = fields[12:16]
    size = 4 if family == socket.AF_INET else 16
    return InetSocket(
        version=4 if family == socket.AF_INET else 6,
        state=state,
        local=socket.inet_ntop(family, source[:size]),
        local_port=int.from_bytes(source_port, "big"),
        remote=socket.inet_ntop(family, destination[:size]),
        remote_port=int.from_bytes(destination_port, "big"),
        receive_queue=receive_queue,
        send_queue=send_queue,
        inode=inode,
    )


def _unix_socket(answer: bytes) -> UnixSocket:
    _, kind, state, inode, _, _ = _UNIX_ANSWER.unpack_from(answer)
    attributes = dict(_attributes(answer[_UNIX_ANSWER.size :]))
    peer = attributes.get(_UNIX_DIAG_PEER, bytes(4))
    name = attributes.get(_UNIX_DIAG_NAME, b"")
    text = "@" + name[1:].decode(errors="replace") if name[:1] == b"\0" else os.fsdecode(name)
    return UnixSocket(
        kind=kind,
        state=state,
        inode=inode,
        peer_inode=int.from_bytes(peer, "little"),
        name=text.rstrip("\0"),
    )


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if size < _ATTRIBUTE.size:
            return
        yield kind, data[at + _ATTRIBUTE.size : at + size]
        at += (size + 3) & ~3
