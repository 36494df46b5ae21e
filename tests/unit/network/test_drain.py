"""Which listeners keep a dump from beginning."""

from crishim.kernel.net.sockdiag import InetSocket, TcpState
from crishim.network.drain import unaccepted


def entry(state, *, port=80, waiting=0, inode=7, version=4):
    return InetSocket(
        version=version, state=state, local="::" if version == 6 else "0.0.0.0", local_port=port,
        remote="", remote_port=0, receive_queue=waiting, send_queue=16, inode=inode,
    )  # fmt: skip


def test_an_idle_listener_is_no_obstacle():
    assert unaccepted([entry(TcpState.LISTEN)], None) == []


def test_waiting_and_half_open_connections_are_counted():
    sockets = [
        entry(TcpState.LISTEN, waiting=2, version=6),
        entry(TcpState.LISTEN, port=81, inode=8),
        entry(TcpState.NEW_SYN_RECV, inode=0),
    ]
    assert unaccepted(sockets, None) == ["[::]:80 (2 waiting, 1 half)"]


def test_only_the_named_listeners_count():
    sockets = [entry(TcpState.LISTEN, waiting=2), entry(TcpState.LISTEN, port=81, inode=8)]
    assert unaccepted(sockets, {8}) == []
