"""What CNI's cache and host-local's files say."""

import base64
import json
import re

import pytest

from crishim.errors import AlreadyExists, Precondition
from crishim.ids import SandboxId
from crishim.network import cni, keeping, reservation

MINE, OTHER, FORMER = (SandboxId(digit * 64) for digit in "123")


def cached(root, **changes):
    config = {
        "name": "pods",
        "plugins": [
            {"type": "ptp", "ipMasq": True, "ipam": {"type": "host-local"}},
            {"type": "portmap"},
        ],
    }
    fields = {
        "networkName": "pods",
        "config": base64.b64encode(json.dumps(config).encode()).decode(),
        "capabilityArgs": {
            "portMappings": [
                {"HostPort": 8080, "ContainerPort": 80, "Protocol": "TCP", "HostIP": "192.0.2.1"},
                {"hostPort": 53, "containerPort": 5353, "protocol": "udp"},
            ]
        },
    }
    (root / "results").mkdir()
    (root / "results" / f"pods-{MINE}-eth0").write_text(json.dumps(fields | changes))


def test_a_cached_result_tells_how_the_sandbox_is_attached(tmp_path):
    cached(tmp_path)
    assert cni.sandbox_network(MINE, root=tmp_path) == cni.SandboxNetwork(
        name="pods",
        plugins=("ptp", "portmap"),
        ipam="host-local",
        masquerade=True,
        reservations=tmp_path / "networks/pods",
        port_mappings=(
            cni.PortMapping(protocol="tcp", host_port=8080, container_port=80, host_ip="192.0.2.1"),
            cni.PortMapping(protocol="udp", host_port=53, container_port=5353),
        ),
    )


def test_host_local_may_keep_its_files_elsewhere(tmp_path):
    plugin = {"type": "bridge", "ipam": {"type": "host-local", "dataDir": "/run/ipam"}}
    config = base64.b64encode(json.dumps(plugin).encode()).decode()
    cached(tmp_path, config=config, capabilityArgs=None)
    found = cni.sandbox_network(MINE, root=tmp_path)
    assert str(found.reservations) == "/run/ipam/pods"
    assert (found.masquerade, found.port_mappings) == (False, ())


def network(root, *plugins):
    config = base64.b64encode(json.dumps({"plugins": plugins}).encode()).decode()
    cached(root, config=config)
    return cni.sandbox_network(MINE, root=root)


def test_flannel_has_bridge_called_with_host_local(tmp_path):
    found = network(tmp_path, {"type": "flannel", "delegate": {"hairpinMode": True}})
    assert (found.plugins, found.ipam) == (("flannel",), "host-local")
    assert found.reservations == tmp_path / "networks/pods"
    assert keeping.doubt(found) == ""


BRIDGE = {"type": "bridge", "ipam": {"type": "host-local"}}


@pytest.mark.parametrize(
    ("plugins", "reason"),
    [
        ([BRIDGE, {"type": "portmap"}], ""),
        ([{"type": "ptp", "ipam": {"type": "host-local"}}], ""),
        ([{"type": "bridge", "ipam": {"type": "dhcp"}}], "given by dhcp, not host-local"),
        ([{"type": "bridge"}], "given by no IPAM plugin"),
        ([{"type": "calico", "ipam": {"type": "calico-ipam"}}], "is led by calico (network pods"),
        ([{"type": "calico", "ipam": {"type": "host-local"}}], "is led by calico"),
        ([{"type": "cilium-cni"}], "is led by cilium-cni"),
        ([BRIDGE, {"type": "cilium-cni"}], "is led by cilium-cni (network pods: bridge/cilium-cni"),
        ([{"type": "macvlan", "ipam": {"type": "host-local"}}], "is led by macvlan"),
        ([{"type": "flannel", "delegate": {"type": "ipvlan"}}], "is led by ipvlan"),
    ],
)
def test_whose_addresses_can_be_kept(tmp_path, plugins, reason):
    found = network(tmp_path, *plugins)
    if not reason:
        keeping.refuse_unmanaged(found, keeping.Policy(), hint="-")
        return
    with pytest.raises(Precondition, match=re.escape(reason)) as caught:
        keeping.refuse_unmanaged(found, keeping.Policy(), hint="make it anew")
    assert caught.value.hint.startswith("make it anew; or")
    assert "keep_unmanaged = true" in caught.value.hint
    keeping.refuse_unmanaged(found, keeping.Policy(unmanaged=True), hint="-")


def test_a_network_that_nobody_knows_keeps_no_address(tmp_path):
    with pytest.raises(Precondition, match="no record"):
        keeping.refuse_unmanaged(
            cni.sandbox_network(MINE, root=tmp_path), keeping.Policy(), hint="-"
        )


@pytest.mark.parametrize(
    "changes", [{"config": "?"}, {"config": None}, {"capabilityArgs": {"portMappings": [{}]}}]
)
def test_an_unreadable_cache_is_no_answer(tmp_path, changes):
    cached(tmp_path, **changes)
    assert cni.sandbox_network(MINE, root=tmp_path) == cni.SandboxNetwork()
    assert cni.sandbox_network(OTHER, root=tmp_path) == cni.SandboxNetwork()


def test_reserving_is_all_or_nothing(tmp_path):
    (tmp_path / "10.0.0.3").write_bytes(f"{OTHER}\r\neth0".encode())
    with pytest.raises(AlreadyExists, match=OTHER):
        reservation.reserve(tmp_path, ["10.0.0.2", "10.0.0.3"], owner=MINE, former=None)
    assert reservation.holder(tmp_path, "10.0.0.2") == ""


def test_a_reservation_may_be_taken_from_the_former_owner_and_repeated(tmp_path):
    (tmp_path / "10.0.0.2").write_bytes(f"{FORMER}\r\neth0".encode())
    for _ in range(2):
        reservation.reserve(tmp_path, ["10.0.0.2"], owner=MINE, former=FORMER)
    assert (tmp_path / "10.0.0.2").read_bytes() == f"{MINE}\r\neth0".encode()


def test_only_ones_own_reservations_are_released(tmp_path):
    reservation.reserve(tmp_path, ["10.0.0.2"], owner=MINE, former=None)
    reservation.reserve(tmp_path, ["10.0.0.3"], owner=OTHER, former=None)
    reservation.release(tmp_path, ["10.0.0.2", "10.0.0.3", "10.0.0.4"], owner=MINE)
    assert [reservation.holder(tmp_path, f"10.0.0.{n}") for n in (2, 3)] == ["", OTHER]


def test_a_reservation_for_those_who_wait_outlives_the_sandbox(tmp_path):
    """CNI's DEL removes what names the sandbox and eth0; the restored pod may take it over."""
    for _ in range(2):
        reservation.reserve(tmp_path, ["10.0.0.2"], owner=MINE, former=MINE, waiting=True)
    assert reservation.holder(tmp_path, "10.0.0.2") == MINE
    assert b"eth0" not in (tmp_path / "10.0.0.2").read_bytes()
    reservation.release(tmp_path, ["10.0.0.2"], owner=MINE)
    assert reservation.holder(tmp_path, "10.0.0.2") == MINE
    reservation.reserve(tmp_path, ["10.0.0.2"], owner=OTHER, former=MINE)
    reservation.release(tmp_path, ["10.0.0.2"], owner=MINE, waiting=True)
    assert reservation.holder(tmp_path, "10.0.0.2") == OTHER


def test_releasing_where_nothing_was_reserved_makes_nothing(tmp_path):
    reservation.release(tmp_path / "none", ["10.0.0.2"], owner=MINE)
    assert list(tmp_path.iterdir()) == []
