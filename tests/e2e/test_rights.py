"""A pod gets no more rights by a checkpoint than it was admitted with."""

from __future__ import annotations

import pytest

from tests.e2e import nodes

# As a careful pod would be run, but as root: the lab cannot dump other users' processes.
CONFINED = {
    "security_context": {
        "seccomp": {"profile_type": 0},
        "no_new_privs": True,
        "capabilities": {"drop_capabilities": ["ALL"]},
        "masked_paths": ["/proc/kcore", "/proc/keys"],
        "readonly_paths": ["/proc/sys", "/proc/irq"],
    }
}
PRIVILEGED = {"security_context": {"privileged": True}}
HOST_NETWORK = {"security_context": {"namespace_options": {"network": 2}}}
NAME = "rights"


@pytest.fixture(autouse=True)
def stored(node):
    """The checkpoint of a test goes with it."""
    yield
    node.sh(f"crishim rm --force {NAME} || true")


def pod_of(node: nodes.Node) -> nodes.Pod:
    """A pod as a tenant makes it, who names the checkpoint in an annotation."""
    return node.pod(annotations={"crishim.io/restore": NAME})


def rights(node: nodes.Node, container: str) -> list[str]:
    """Bounding set, no-new-privileges, seccomp mode."""
    script = """
pid=$(crictl inspect -o go-template --template '{{.info.pid}}' "$0")
awk '/^(CapBnd|NoNewPrivs|Seccomp):/ { print $2 }' /proc/$pid/status"""
    return node.exec("sh", "-ec", script, container).split()


def test_a_privileged_container_does_not_come_back_in_a_confined_one(node):
    """Refused by name before anything runs; an administrator may ask for it in so many words."""
    source = node.pod(linux=PRIVILEGED).run(linux=PRIVILEGED)
    node.exec("crishim", "checkpoint", source, "--name", NAME)
    target = pod_of(node)
    with pytest.raises(nodes.CommandFailed) as refused:
        target.create(nodes.IMAGE, linux=CONFINED)
    error = refused.value.stderr
    assert "code = FailedPrecondition" in error
    assert "(workload) has the capabilities SYS_ADMIN" in error
    for text in ("may gain privileges", "no seccomp profile", "/proc and /sys is hidden"):
        assert text in error
    assert node.crictl("ps", "-a", "-q", "--pod", target.id) == ""

    plain = node.pod()
    body = plain.create(nodes.IMAGE, linux=CONFINED)
    with pytest.raises(nodes.CommandFailed) as refused:
        node.exec("crishim", "restore", body, NAME)
    assert "--allow-privileges" in refused.value.stderr
    node.exec("crishim", "restore", body, NAME, "--allow-privileges")
    assert rights(node, body) == rights(node, source)


def test_a_confined_container_comes_back_as_it_was(node):
    """The same settings: nothing is refused, and nothing is lost of them."""
    source = node.pod().run(linux=CONFINED)
    before = rights(node, source)
    assert before == ["0000000000000000", "1", "2"]
    node.exec("crishim", "checkpoint", source, "--name", NAME)
    target = pod_of(node)
    container = target.create(nodes.IMAGE, linux=CONFINED)
    node.crictl("start", container)
    assert rights(node, container) == before
    assert nodes.ask(target.address, "count 1") == "count 1 1"


def test_the_node_s_network_does_not_come_back_in_a_pod_s(node):
    """CRIU would leave its processes where it runs itself: on the node's network."""
    plain_tcp = [{"key": "GODEBUG", "value": "multipathtcp=0"}]
    pod = node.pod(linux=HOST_NETWORK)
    source = pod.run("-port", "9124", envs=plain_tcp, linux=HOST_NETWORK)
    node.exec("crishim", "checkpoint", source, "--name", NAME, "--tcp", "close")
    with pytest.raises(nodes.CommandFailed) as refused:
        pod_of(node).create(nodes.IMAGE)
    assert "in the node's own namespaces (network, uts)" in refused.value.stderr
