"""The store on a real node: list, inspect, rm, and the images that stay for it."""

from __future__ import annotations

import json

import pytest

from tests.e2e import nodes
from tests.e2e.moves import eventually, times_sent_again


def pinned(node: nodes.Node) -> bool:
    """Whether CRI reports the workload's image as pinned, which the kubelet's collector obeys."""
    images = json.loads(node.crictl("images", "-o", "json"))["images"]
    return next(image["pinned"] for image in images if nodes.IMAGE in image["repoTags"])


def wait_pinned(node: nodes.Node, wanted: bool) -> None:
    """Wait until containerd's CRI has taken notice of a change of labels."""
    eventually(lambda: pinned(node) is wanted, within_s=10, what=f"pinned is not {wanted}")


def stored(node: nodes.Node) -> dict[str, dict]:
    """The checkpoints that `crishim list` knows, by name."""
    return {c["name"]: c for c in json.loads(node.exec("crishim", "list", "--json"))}


def labels(node: nodes.Node, image: str) -> str:
    """The labels of a record of containerd's, as ctr shows them."""
    listed = node.sh(f"ctr -n k8s.io images ls name=={image} 2>/dev/null").splitlines()
    return listed[-1].split()[-1]


def test_list_inspect_and_rm(node: nodes.Node) -> None:
    pod = node.pod()
    container = pod.run("-memory-mb", "5")
    client = nodes.Client(pod.address)
    try:
        for name in ("first", "second"):
            node.exec("crishim", "checkpoint", container, "--name", name)
    finally:
        client.close()
    found = stored(node)
    assert list(found) == ["first", "second"]
    assert found["first"]["addresses"] == [pod.address]
    assert pod.name in node.exec("crishim", "list")

    inside = json.loads(node.exec("crishim", "inspect", "first", "--json"))
    assert [p["command"] for p in inside["processes"]] == ["workload"]
    ends = {(s["state"], s["local"].rpartition(":")[2]) for s in inside["sockets"]}
    assert ends == {("listen", "9000"), ("established", "9000")}
    assert {"/", "/proc", "/etc/hosts"} <= {m["destination"] for m in inside["mounts"]}
    assert int(inside["statistics"]["freeze_us"]) > 0
    text = node.exec("crishim", "inspect", "/var/lib/crishim/checkpoints/first.tar")
    assert f"addresses   {pod.address}\n" in text

    assert node.exec("crishim", "rm", "first", "second").split() == ["first", "second"]
    assert stored(node) == {}


def test_a_base_image_is_pinned_while_a_checkpoint_needs_it(node: nodes.Node) -> None:
    container = node.pod().run("-memory-mb", "1")
    assert not pinned(node)
    node.exec("crishim", "checkpoint", container, "--output", "/tmp/elsewhere.tar")
    node.exec("rm", "/tmp/elsewhere.tar")
    assert not pinned(node)
    for name in ("first", "second"):
        node.exec("crishim", "checkpoint", container, "--name", name)
    wait_pinned(node, True)
    node.exec("crishim", "rm", "first")
    assert pinned(node)

    # Labels go when an image is removed and pulled again; the next start puts them back.
    image = json.loads(node.crictl("inspecti", "-o", "json", nodes.IMAGE))["status"]["id"]
    node.sh(f"ctr -n k8s.io images label {image} io.cri-containerd.pinned= crishim.io/pinned-by=")
    wait_pinned(node, False)
    node.exec("service", "crishim", "restart")
    wait_pinned(node, True)

    node.exec("crishim", "rm", "second")
    wait_pinned(node, False)
    assert labels(node, image) == "io.cri-containerd.image=managed"


def test_a_pin_of_somebody_else_stays(node: nodes.Node) -> None:
    container = node.pod().run("-memory-mb", "1")
    image = json.loads(node.crictl("inspecti", "-o", "json", nodes.IMAGE))["status"]["id"]
    node.sh(f"ctr -n k8s.io images label {image} io.cri-containerd.pinned=pinned")
    try:
        node.exec("crishim", "checkpoint", container, "--name", "first")
        node.exec("crishim", "rm", "first")
        assert "io.cri-containerd.pinned=pinned" in labels(node, image)
    finally:
        node.sh(f"ctr -n k8s.io images label {image} io.cri-containerd.pinned=")


def test_a_checkpoint_stays_while_a_container_waits_for_it(node: nodes.Node) -> None:
    node.exec("crishim", "checkpoint", node.pod().run("-memory-mb", "1"), "--name", "first")
    waiting = node.pod().create("first", "/workload")
    try:
        with pytest.raises(nodes.CommandFailed) as refused:
            node.exec("crishim", "rm", "first")
        assert refused.value.status == 3
        assert f"container {waiting[:13]} " in refused.value.stderr
    finally:
        node.crictl("rm", waiting)
    assert node.exec("crishim", "rm", "first") == "first\n"


def test_a_checkpoint_stays_while_connections_wait_for_it(node: nodes.Node) -> None:
    """Removing it is refused with their address; with --force their client is told at once."""
    pod = node.pod()
    container = pod.run()
    client = nodes.Client(pod.address)
    client.wait_answers(20)
    node.exec("crishim", "checkpoint", container, "--stop", "--name", "first")
    with pytest.raises(nodes.CommandFailed) as refused:
        node.exec("crishim", "rm", "first")
    assert f"connections to {pod.address} wait for the restore of first" in refused.value.stderr
    assert "--force" in refused.value.stderr
    other = node.pod().run()
    for options in (("--name", "first"), ("--name", "first", "--force")):
        with pytest.raises(nodes.CommandFailed) as refused:
            node.exec("crishim", "checkpoint", other, *options)
        assert ("is already there", "is what is left of container")["--force" in options] in (
            refused.value.stderr
        )
    with pytest.raises(nodes.CommandFailed) as refused:
        node.crictl("checkpoint", "--export", "/var/lib/crishim/checkpoints/first.tar", other)
    assert "is what is left of container" in refused.value.stderr
    assert list(stored(node)) == ["first"]
    assert client.report()["errors"] == []
    eventually(lambda: times_sent_again(pod.address) > 0)
    assert node.exec("crishim", "rm", "--force", "first") == "first\n"
    assert stored(node) == {}
    eventually(lambda: client.report()["errors"] != [], outcome=True)
    assert "reset" in client.close()["errors"][0]


def test_a_checkpoint_can_go_once_it_was_restored(node: nodes.Node) -> None:
    node.exec("crishim", "checkpoint", node.pod().run(), "--stop", "--name", "first")
    node.crictl("start", node.pod().create("first"))
    assert node.exec("crishim", "rm", "first") == "first\n"
