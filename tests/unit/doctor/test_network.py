"""What the doctor says of a node's CNI plugins."""

import json

from crishim.doctor import network
from crishim.doctor.finding import Level

LOOPBACK = json.dumps({"plugins": [{"type": "loopback"}]})
BRIDGE = json.dumps({"plugins": [{"type": "bridge", "ipam": {"type": "host-local"}}]})
CALICO = json.dumps({"plugins": [{"type": "calico", "ipam": {"type": "calico-ipam"}}]})


def test_plugins_whose_addresses_can_be_kept():
    found = network.plugins({"cni-loopback": LOOPBACK, "pods": BRIDGE}, keep_unmanaged=False)
    assert (found.level, found.id) == (Level.OK, "network.cni")
    assert "bridge, host-local" in found.summary


def test_others_are_named_with_what_works_all_the_same():
    found = network.plugins({"k8s-pod-network": CALICO}, keep_unmanaged=False)
    assert found.level is Level.WARNING
    assert "led by calico (network k8s-pod-network" in found.summary
    assert "--tcp close" in found.cure and "keep_unmanaged" in found.cure


def test_what_the_administrator_has_allowed_is_in_order():
    found = network.plugins({"k8s-pod-network": CALICO}, keep_unmanaged=True)
    assert found.level is Level.OK and "calico" in found.summary


def test_no_network_at_all():
    found = network.plugins({"cni-loopback": LOOPBACK}, keep_unmanaged=False)
    assert found.level is Level.WARNING and "/etc/cni/net.d" in found.cure
