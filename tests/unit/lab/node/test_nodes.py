import ipaddress
import json
import os
import tomllib

import pytest

from lab.errors import LabError
from lab.host.cgroups import Hierarchy, hierarchies
from lab.host.network import NodeNet
from lab.node.files import CONTAINERD_SOCKET, cni_config, containerd_config
from lab.node.nodes import RunningNode, start_ticks
from lab.parts.gotools import pinned_version
from lab.parts.oci import Blob
from lab.parts.standins import PAUSE_IMAGE, standin_list
from lab.settings import CONTAINERD_VERSIONS, Options

LEGACY = """\
30 24 0:27 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
32 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
33 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
34 24 0:29 / /mnt/again rw shared:9 - cgroup cgroup rw,cpu,cpuacct
"""
UNIFIED = "30 24 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def test_each_cgroup_hierarchy_is_found_once():
    found = [(str(each.point), each.version, each.options) for each in hierarchies(LEGACY)]
    assert found == [
        ("/sys/fs/cgroup/systemd", 1, "xattr,name=systemd"),
        ("/sys/fs/cgroup/cpu,cpuacct", 1, "cpu,cpuacct"),
        ("/sys/fs/cgroup/unified", 2, ""),
    ]


def test_a_unified_machine_has_the_one_hierarchy():
    (only,) = hierarchies(UNIFIED)
    assert isinstance(only, Hierarchy)
    assert (str(only.point), only.version) == ("/sys/fs/cgroup", 2)


@pytest.mark.parametrize("cni", ["bridge", "ptp"])
def test_pod_ranges_of_nodes_lie_in_their_routes_and_apart(cni):
    seen = []
    for number in range(1, 10):
        net = NodeNet(number, cni)
        for (each,), route in zip(
            net.ranges(dual_stack=True), (net.pod_route, net.pod_route_v6), strict=True
        ):
            routed = ipaddress.ip_network(route)
            seen.append(routed)
            assert routed.subnet_of(ipaddress.ip_network(each["subnet"]))
            for key in ("rangeStart", "rangeEnd", "gateway"):
                if key in each:
                    assert ipaddress.ip_address(each[key]) in routed
    for one in seen:
        assert sum(one.version == other.version and one.overlaps(other) for other in seen) == 1


def test_a_dual_stack_network_has_both_families_and_routes():
    options = Options(dual_stack=True, masquerade=False)
    plugin = json.loads(cni_config(NodeNet(1, "bridge"), options))["plugins"][0]
    assert [ipaddress.ip_network(r[0]["subnet"]).version for r in plugin["ipam"]["ranges"]] == [
        4,
        6,
    ]
    assert [route["dst"] for route in plugin["ipam"]["routes"]] == ["0.0.0.0/0", "::/0"]
    assert plugin["ipMasq"] is False
    single = json.loads(cni_config(NodeNet(1, "ptp"), Options(cni="ptp")))["plugins"][0]
    assert len(single["ipam"]["ranges"]) == 1
    assert "bridge" not in single


@pytest.mark.parametrize("version", CONTAINERD_VERSIONS)
def test_containerd_pins_the_local_pause_image(version):
    config = tomllib.loads(containerd_config(version))
    plugins = config["plugins"]
    if version == "1.7":
        assert config["version"] == 2
        assert plugins["io.containerd.grpc.v1.cri"]["sandbox_image"] == PAUSE_IMAGE
    else:
        assert config["version"] == 3
        images = plugins["io.containerd.cri.v1.images"]
        assert images["pinned_images"]["sandbox"] == PAUSE_IMAGE
    assert CONTAINERD_SOCKET == "/run/containerd/containerd.sock"


def test_stand_ins_can_be_removed_one_by_one():
    names = ("busybox", "nnp", "web", "hostweb")
    images = standin_list({name: Blob.of_bytes(name.encode()) for name in names})
    references = [image.reference for image in images]
    assert len(set(references)) == len(references)
    tags = [image for image in images if "test-image-tags" in image.reference]
    assert len({image.labels for image in tags}) == 1
    others = [image.labels for image in images if image not in tags]
    assert len(set(others)) == len(others)


def test_a_process_is_told_from_a_later_one_of_its_number():
    ticks = start_ticks(os.getpid())
    assert ticks is not None
    assert RunningNode("node1", os.getpid(), ticks).alive
    assert not RunningNode("node1", os.getpid(), ticks + 1).alive
    assert start_ticks(2**22 + 1) is None


def test_the_pinned_version_of_a_module_is_read_from_go_mod():
    go_mod = "module x\n\nrequire (\n\ta.example/b v1.2.3\n\ta.example/b/c v2.0.0 // indirect\n)\n"
    assert pinned_version(go_mod, "a.example/b") == "v1.2.3"
    assert pinned_version("require a.example/b/v2 v2.4.0\n", "a.example/b/v2") == "v2.4.0"
    with pytest.raises(LabError, match="does not require"):
        pinned_version(go_mod, "a.example/d")
