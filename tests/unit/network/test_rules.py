"""The texts handed to nftables, where their meaning can be read off them."""

import pytest

from crishim.errors import Precondition
from crishim.network import rules
from crishim.network.cni import PortMapping
from crishim.network.sockets import Connection, HeldSockets

MOVED = [
    rules.Moved(address="10.1.0.2", subnet="10.1.0.0/24"),
    rules.Moved(address="fd00::2", subnet="fd00::/64"),
]


def test_tables_have_names_of_their_own_under_one_prefix():
    names = {rules.new_table() for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith(rules.PREFIX) for name in names)


def test_the_source_holds_both_ways_and_loopback_the_target_only_what_comes():
    source = rules.source("t", interface="eth0", lasting=True, sockets=None)
    target = rules.target("t", interface="eth0", sockets=None)
    assert [source.count(word) for word in ("ingress", "egress", '"lo"')] == [2, 1, 1]
    assert [target.count(word) for word in ("ingress", "egress", '"lo"')] == [1, 1, 0]
    assert target.count("policy drop") == 1
    assert 'device "lo"' in source and source.count("policy accept; meta l4proto tcp drop") == 1
    assert "tcp flags & (fin | rst) != 0 drop" in target


def test_a_sealed_target_is_exchanged_at_one_moment_and_holds_both_ways():
    text = rules.sealed("t", interface="eth0")
    assert text.startswith("delete table netdev t\n")
    assert [text.count(word) for word in ("policy drop", "egress", "flags owner")] == [2, 1, 0]


def test_only_a_passing_hold_ends_with_its_owner():
    for lasting in (True, False):
        text = rules.source("t", interface="eth0", lasting=lasting, sockets=None)
        assert ("flags owner" in text) is not lasting


def test_kept_sockets_leave_the_rest_alone():
    ends = Connection(local="10.1.0.2", local_port=80, remote="10.9.0.1", remote_port=4000)
    kept = HeldSockets(connections=frozenset([ends]), tcp_ports=frozenset([80]))
    text = rules.source("t", interface="eth0", lasting=True, sockets=kept)
    assert "policy drop" not in text
    assert "10.9.0.1 . 4000 . 10.1.0.2 . 80" in text
    assert "udp_ports drop" not in text


def test_a_container_without_listeners_blocks_no_syn():
    assert "drop" not in rules.syn("t", interface="eth0", ports=[])
    assert "tcp dport { 80, 443 }" in rules.syn("t", interface="eth0", ports=[443, 80])
    assert "dport" not in rules.syn("t", interface="eth0", ports=None)


def test_the_node_drops_each_address_in_its_own_family():
    text = rules.node("t", ["10.1.0.2", "fd00::2"])
    assert text.count("ip daddr 10.1.0.2 drop") == text.count("ip6 daddr fd00::2 drop") == 2


def test_no_nat_without_need():
    assert rules.nat("t", MOVED, masquerade=False, mappings=[]) == ""
    assert rules.nat("t", [], masquerade=True, mappings=[]) == ""


def test_only_first_segments_are_masqueraded():
    text = rules.nat("t", MOVED, masquerade=True, mappings=[])
    for clause in text.split("; "):
        if clause.endswith("masquerade"):
            assert "tcp flags & (syn | ack) == syn" in clause or "l4proto != tcp" in clause


def test_a_port_of_one_node_address_leads_only_from_there():
    mapping = PortMapping(protocol="tcp", host_port=80, container_port=8080, host_ip="192.0.2.1")
    text = rules.nat("t", MOVED, masquerade=False, mappings=[mapping])
    assert "ip daddr 192.0.2.1 tcp dport 80 dnat ip to 10.1.0.2:8080" in text
    assert "[fd00::2]" not in text
    assert "fib" not in text


@pytest.mark.parametrize(
    "changed",
    [
        {"host_ip": "fe80::1%x tcp dport 1 accept; }; }; flush ruleset; #"},
        {"host_ip": "fe80::1%eth0"},
        {"host_ip": "nowhere"},
        {"protocol": "tcp; flush ruleset; #"},
    ],
)
def test_a_host_port_becomes_no_text_of_nft(changed):
    """An IPv6 address may have a zone after it, and that may be any text."""
    mapping = PortMapping(**{"protocol": "tcp", "host_port": 1, "container_port": 2} | changed)
    with pytest.raises(Precondition):
        rules.nat("t", MOVED, masquerade=False, mappings=[mapping])
