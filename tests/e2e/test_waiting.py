"""Connections that wait for a restore: nobody else gets their address, and they may be let go."""

import contextlib
import json

import pytest

from tests.e2e import nodes
from tests.e2e.moves import (
    ARCHIVE,
    assert_unharmed,
    checkpoint,
    eventually,
    stopped,
    times_sent_again,
)

CONFIG = "/etc/crishim/config.toml"
CNI_CONFIG = "/etc/cni/net.d/10-lab.conflist"


@pytest.fixture
def impatient(node):
    """The node, with a daemon that lets connections wait for two seconds only."""
    node.sh(f"mkdir -p /etc/crishim; printf '[checkpoint]\\nconnections_wait_s = 2\\n' > {CONFIG}")
    node.exec("service", "crishim", "restart")
    yield node
    node.exec("rm", CONFIG)
    node.exec("service", "crishim", "restart")


@pytest.mark.parametrize("pod_stays", [True, False], ids=["pod-stays", "pod-gone"])
def test_waiting_ends_after_the_configured_time(impatient, pod_stays):
    """The client is told by a reset and does not hang; the address is free again.

    It is one that sends while the pod is still there: of what comes after that nothing is caught.
    """
    pod, address, client = stopped(impatient)
    eventually(lambda: times_sent_again(address) > 0)
    if not pod_stays:
        pod.remove()
    eventually(lambda: client.report()["errors"] != [], outcome=True)
    assert "reset" in client.close()["errors"][0]
    log = impatient.sh("cat /var/log/crishim.log")
    assert f"connections to {address} are let go: nobody restored them within 2 s" in log
    if not pod_stays:
        eventually(lambda: address not in impatient.sh("ls /var/lib/cni/networks/lab"))
    impatient.exec("rm", ARCHIVE)


def test_a_held_address_is_given_to_nobody(node):
    """Not even when it is the last one that CNI has: the next pod fails, and the restore works."""
    pod, address, client = stopped(node)
    pod.remove()
    with only_address(node, address):
        with pytest.raises(nodes.CommandFailed) as refused:
            node.pod()
        assert "no IP addresses available" in refused.value.stderr
    revived = node.pod().create(ARCHIVE)
    node.crictl("start", revived)
    client.wait_answers(50)
    assert_unharmed(client.close())
    node.exec("rm", ARCHIVE)


@contextlib.contextmanager
def only_address(node: nodes.Node, address: str):
    """Let CNI have one address to give and no other."""
    was = node.exec("cat", CNI_CONFIG)
    now = json.loads(was)
    now["plugins"][0]["ipam"]["ranges"][0][0] |= {"rangeStart": address, "rangeEnd": address}
    configure_cni(node, json.dumps(now))
    try:
        yield
    finally:
        configure_cni(node, was)


def configure_cni(node: nodes.Node, text: str) -> None:
    """Write CNI's configuration and wait until containerd has taken notice."""
    file = node.write_json(json.loads(text))
    node.exec("mv", file, CNI_CONFIG)
    wanted = json.loads(text)["plugins"][0]["ipam"]["ranges"][0][0]["rangeEnd"]
    known = f'"rangeEnd":"{wanted}"'
    eventually(lambda: known in node.crictl("info").replace("\\", "").replace(" ", ""))


def test_a_held_pod_that_is_removed_past_the_daemon(node):
    """Its connections live on all the same, from the next look that the daemon takes."""
    pod, address, client = stopped(node)
    for verb in ("stopp", "rmp"):
        node.exec("crictl", "-r", "unix:///run/containerd/containerd.sock", verb, pod.id)
    node.exec("service", "crishim", "restart")
    eventually(lambda: address in node.sh("ls /var/lib/cni/networks/lab; nft list ruleset"))
    node.crictl("start", node.pod().create(ARCHIVE))
    client.wait_answers(50)
    assert_unharmed(client.close())
    node.exec("rm", ARCHIVE)


def test_a_held_container_can_be_stopped_wherever_its_archive_is(node):
    """A kubelet's container stays frozen; the daemon may restart after the archive was moved."""
    pod = node.pod()
    container = pod.run(annotations={"io.kubernetes.container.hash": "1"})
    checkpoint(node, container, "--stop")
    node.exec("mv", ARCHIVE, "/tmp/moved.tar")
    node.exec("service", "crishim", "restart")
    node.crictl("stop", container)
    status = json.loads(node.crictl("inspect", container))["status"]
    assert (status["state"], status["exitCode"]) == ("CONTAINER_EXITED", 137)
    pod.remove()
    node.crictl("start", node.pod().create("/tmp/moved.tar"))
    node.exec("rm", "/tmp/moved.tar")


def test_a_held_pod_takes_no_other_container(node):
    """One clear error each, whether it was created before the checkpoint or is to be created."""
    pod = node.pod()
    container = pod.run()
    created = pod.create(nodes.IMAGE, "/workload", "-port", "9001")
    node.exec("crishim", "checkpoint", container, "--stop", "--name", "first")
    with pytest.raises(nodes.CommandFailed) as refused:
        node.crictl("start", created)
    assert "stopped by a checkpoint, and the pod is cut off" in refused.value.stderr
    with pytest.raises(nodes.CommandFailed) as refused:
        pod.create(nodes.IMAGE, "/workload")
    assert "stopped by a checkpoint, and the pod is cut off" in refused.value.stderr
    assert "make a new pod" in refused.value.stderr
    node.exec("crishim", "rm", "--force", "first")
