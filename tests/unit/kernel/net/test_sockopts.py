"""Options and memberships of sockets of this process, on the loopback interface."""

import errno
import socket

import pytest

from crishim.kernel.net import multicast, sockopts

LOOPBACK = socket.inet_aton("127.0.0.1")
JOIN_SOURCE = 39  # IP_ADD_SOURCE_MEMBERSHIP


def udp() -> socket.socket:
    """Return a socket whose protocol Python knows, as that of a borrowed one."""
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_UDP)


def test_only_what_differs_from_a_fresh_socket_is_remembered_and_can_be_put():
    defaults = sockopts.Defaults()
    with udp() as changed, udp() as fresh:
        assert defaults.changed(fresh) == []
        changed.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 7)
        changed.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, LOOPBACK)
        found = defaults.changed(changed)
        assert sorted(map(str, found)) == ["IP_MULTICAST_IF", "IP_MULTICAST_TTL"]
        for option in found:
            sockopts.put(fresh, option)
        assert defaults.changed(fresh) == found


def test_an_accepted_connection_has_nothing_to_remember():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        server.accept()[0] as peer,
    ):
        client.sendall(b"x" * 50_000)
        for item in (client, peer):
            with socket.socket(fileno=item.detach()) as known:
                assert sockopts.Defaults().changed(known) == []


def test_nothing_but_its_options_is_put():
    with udp() as sock, pytest.raises(OSError, match="Protocol not available"):
        sockopts.put(sock, sockopts.Option(level=1, name=socket.SO_BROADCAST, value=b"\1\0\0\0"))


@pytest.mark.parametrize("sources", [(), ("127.0.0.9",)])
def test_a_membership_is_found_and_joined_again(sources):
    group = socket.inet_aton("239.7.7.7")
    with udp() as member, udp() as other:
        for source in sources:
            member.setsockopt(
                socket.IPPROTO_IP, JOIN_SOURCE, group + LOOPBACK + socket.inet_aton(source)
            )
        if not sources:
            member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group + LOOPBACK)
        (found,) = multicast.memberships(member, multicast.groups())
        assert str(found.group) == "239.7.7.7 on lo"
        assert found.exclude is not bool(sources)
        assert found.sources == tuple(map(socket.inet_aton, sources))
        assert multicast.memberships(other, multicast.groups()) == []
        multicast.join(other, found)
        multicast.join(other, found)
        assert multicast.memberships(other, multicast.groups()) == [found]


def test_more_sources_than_were_reckoned_with(monkeypatch):
    """An administrator may have raised what a node lets a socket have."""
    monkeypatch.setattr(multicast, "_SOURCES", 2)
    group = socket.inet_aton("239.7.7.8")
    sources = [socket.inet_aton(f"127.0.0.{number}") for number in range(10, 19)]
    with udp() as member:
        for source in sources:
            member.setsockopt(socket.IPPROTO_IP, JOIN_SOURCE, group + LOOPBACK + source)
        (found,) = multicast.memberships(member, multicast.groups())
        assert sorted(found.sources) == sources


def test_an_interface_that_is_not_there():
    group = multicast.Group(family=2, interface="none", address=b"\xef\1\2\3")
    with udp() as sock, pytest.raises(OSError, match="no interface"):
        multicast.join(sock, multicast.Membership(group=group, exclude=True, sources=()))


@pytest.mark.parametrize(
    ("number", "is_known"), [("EADDRNOTAVAIL", True), ("ENOPROTOOPT", True), ("ENOMEM", False)]
)
def test_a_question_that_fails_is_not_taken_for_no_membership(monkeypatch, number, is_known):
    """The socket would lose its group in the restore, and nobody would be told."""

    def fail(*_):
        raise OSError(getattr(errno, number), number)

    group = socket.inet_aton("239.7.7.9")
    with udp() as member:
        member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group + LOOPBACK)
        among = multicast.groups()
        monkeypatch.setattr(multicast, "_ask", fail)
        if is_known:
            assert multicast.memberships(member, among) == []
        else:
            with pytest.raises(OSError, match=number):
                multicast.memberships(member, among)
        gone = multicast.Group(family=socket.AF_INET, interface="none", address=group)
        with pytest.raises(OSError, match="no interface"):
            multicast.memberships(member, [gone])


def test_a_group_on_an_interface_with_a_long_name(monkeypatch, tmp_path):
    """The kernel writes ten characters and then a colon: after a longer name it stands close."""
    (tmp_path / "igmp").write_text(
        "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n"
        "1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n"
        "2\tnet0123456789:     1      V3\n\t\t\t\t070707EF     1 0:00000000\t\t0\n"
    )
    monkeypatch.setattr(multicast, "Path", lambda _: tmp_path)
    found = {(group.interface, group.address) for group in multicast.groups()}
    assert found == {
        ("lo", socket.inet_aton("224.0.0.1")),
        ("net0123456789", socket.inet_aton("239.7.7.7")),
    }
