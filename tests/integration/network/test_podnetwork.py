"""Pods with several interfaces, and with interfaces that have no end on the node."""

from types import SimpleNamespace

from crishim.dump.connections import SourceConnections
from crishim.network import podnetwork
from tests.integration.network.conftest import ip


async def test_an_ordinary_pod(network):
    found = await podnetwork.look(network.pod(2).path)
    assert (found.kind, found.holdable, found.others) == ("veth", True, {})


async def test_further_interfaces_are_known_by_their_addresses(network):
    pod = network.pod(2)
    pid = str(pod.holder.pid)
    ip("link", "add", "extra", "type", "veth", "peer", "name", "net1", "netns", pid)
    pod.ip("addr", "add", "10.99.0.2/24", "dev", "net1")
    pod.ip("addr", "add", "192.0.2.9/32", "dev", "lo")
    found = await podnetwork.look(pod.path)
    assert found.holdable
    assert found.others == {"10.99.0.2": "net1", "192.0.2.9": "lo"}


async def test_a_pod_without_a_veth_is_dumped_without_a_hold(network):
    """macvlan over an interface of the node, as the CNI plugin makes it."""
    pod = network.namespace()
    ip("link", "add", "m0", "link", "up0", "type", "macvlan")
    ip("link", "set", "m0", "netns", str(pod.holder.pid))
    pod.ip("link", "set", "m0", "name", "eth0", "up")
    found = await podnetwork.look(pod.path)
    assert (found.kind, found.holdable) == ("macvlan", False)

    source = SimpleNamespace(
        sandbox=SimpleNamespace(netns=pod.path, host_network=False), neighbours=0
    )
    connections = SourceConnections(source, lasting=False)
    assert await connections.prepare() == ()
    await connections.drain([], timeout_s=0)
    await connections.close([])
    await connections.release()


async def test_a_pod_without_a_network(network):
    found = await podnetwork.look(network.namespace().path)
    assert (found.kind, found.holdable) == ("", False)
