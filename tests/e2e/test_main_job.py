"""The main job: a container goes on in another pod; its client sees nothing but a pause."""

from __future__ import annotations

import json

import pytest

from tests.e2e import nodes
from tests.e2e.moves import ARCHIVE, assert_unharmed, checkpoint


@pytest.fixture
def archive(node):
    """Path of an archive on the node that is gone after the test."""
    yield ARCHIVE
    node.exec("rm", "-f", ARCHIVE)


def test_crictl_checkpoint_leaves_the_container_running(node, archive):
    """`crictl checkpoint` writes a complete archive; a client sees a short pause."""
    pod = node.pod()
    container = pod.run("-memory-mb", "50")
    client = nodes.Client(pod.address)
    client.wait_answers(50)
    node.crictl("checkpoint", "--export", archive, container)
    client.wait_answers(50)
    assert_unharmed(client.close())
    assert node.sh(f"stat -c %a {archive}").strip() == "600"
    listing = node.exec("tar", "-tf", archive).split()
    for name in ("checkpoint/", "checkpoint/inventory.img", "checkpoint/pages-1.img", "spec.dump",
                 "config.dump", "status.dump", "status", "stats-dump", "dump.log", "container.log",
                 "rootfs-diff.tar", "crishim.json"):  # fmt: skip
        assert name in listing
    shown = node.exec("checkpointctl", "show", archive)
    assert nodes.IMAGE in shown
    assert container[:12] in shown


def test_checkpoint_with_stop_and_restore_keeps_the_connection(node, archive):
    """Checkpoint with stop, pod removed, new pod: memory, files, log, address, connection."""
    pod = node.pod()
    container = pod.run("-memory-mb", "100", "-log-every", "20ms")
    address = pod.address
    digest = nodes.ask(address, "sum")
    assert nodes.ask(address, "write /tmp/kept first line") == "ok"
    client = nodes.Client(address)
    client.wait_answers(100)
    result = checkpoint(node, container, "--stop")
    assert result["path"] == archive
    assert result["info"]["addresses"][0] == address
    assert not result["info"]["source_running"]
    assert state(node, container) == "CONTAINER_EXITED"
    before = client.report()["answered"]
    pod.remove()

    successor = node.pod()
    assert successor.address != address
    revived = successor.create(archive)
    node.crictl("start", revived)
    client.wait_answers(200)
    assert successor.address == address
    report = client.close()
    assert_unharmed(report)
    assert report["answered"] > before
    assert nodes.ask(address, "sum") == digest
    assert nodes.ask(address, "read /tmp/kept") == "read first line"
    assert nodes.ask(address, "write /tmp/kept second line") == "ok"
    assert node.exec("crictl", "exec", revived, "/workload", "-help") is not None


def test_log_has_each_line_once(node, archive):
    """The log of the new container begins with the old one's and goes on without a gap."""
    pod = node.pod()
    container = pod.run("-log-every", "5ms")
    client = nodes.Client(pod.address)
    client.wait_answers(100)
    checkpoint(node, container, "--stop")
    pod.remove()
    successor = node.pod()
    revived = successor.create(archive)
    node.crictl("start", revived)
    client.wait_answers(100)
    client.close()
    lines = node.crictl("logs", revived).split("\n")
    numbers = [int(line.split()[1]) for line in lines if line.startswith("line ")]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 50


def test_connections_that_the_container_opened(node, archive):
    """A connection out of the pod survives too, and a new one can be opened afterwards."""
    pod = node.pod()
    container = pod.run()
    peer = node.pod()
    peer.run()
    address, other = pod.address, peer.address
    local = nodes.ask(address, f"dial {other}:9000")
    assert local.startswith(f"local {address}:")
    assert nodes.ask(address, "say count 1") == "heard count 1 1"
    checkpoint(node, container, "--stop")
    pod.remove()
    successor = node.pod()
    node.crictl("start", successor.create(archive))
    assert nodes.ask(address, "say count 2") == "heard count 2 2"
    assert nodes.ask(address, f"dial {other}:9000") != local
    assert nodes.ask(address, "say count 3") == "heard count 3 3"


def test_restore_through_our_own_service(node, archive):
    """`crishim restore` into a created container, with the target pod made beforehand."""
    pod = node.pod()
    container = pod.run("-memory-mb", "20")
    address = pod.address
    successor = node.pod()
    body = successor.create(nodes.IMAGE, "/workload")
    client = nodes.Client(address)
    client.wait_answers(50)
    checkpoint(node, container, "--stop")
    out = node.exec("crishim", "restore", body, archive, "--json")
    assert json.loads(out.splitlines()[-1])["result"]["addresses"][0] == address
    client.wait_answers(100)
    assert_unharmed(client.close())


def test_a_copy_beside_the_running_source(node, archive):
    """A checkpoint of a container that went on gives a second one, with its own address."""
    pod = node.pod()
    container = pod.run("-memory-mb", "20")
    address = pod.address
    client = nodes.Client(address)
    client.wait_answers(50)
    checkpoint(node, container)
    successor = node.pod()
    own = successor.address
    node.crictl("start", successor.create(archive))
    assert successor.address == own != address
    first = int(nodes.ask(own, "count 1").split()[2])
    assert first >= 50, "the copy begins where the source was"
    client.wait_answers(50)
    assert_unharmed(client.close())


def test_second_checkpoint_of_a_restored_container(node, archive):
    """A restored container can be checkpointed and restored again."""
    pod = node.pod()
    container = pod.run("-memory-mb", "20")
    address = pod.address
    client = nodes.Client(address)
    for _ in range(2):
        client.wait_answers(30)
        checkpoint(node, container, "--stop")
        pod.remove()
        pod = node.pod()
        container = pod.create(archive)
        node.crictl("start", container)
        node.exec("rm", archive)
    client.wait_answers(30)
    assert_unharmed(client.close())
    assert pod.address == address


def test_a_failed_dump_leaves_the_container_running(node, archive):
    """CRIU fails; the caller gets its last error, the log is kept, the client sees no error."""
    pod = node.pod()
    container = pod.run()
    client = nodes.Client(pod.address)
    client.wait_answers(30)
    node.sh("mkdir -p /etc/criu; echo 'tcp-established-nonsense' > /etc/criu/runc.conf")
    try:
        with pytest.raises(nodes.CommandFailed) as failed:
            node.exec("crishim", "checkpoint", container, "--output", archive)
    finally:
        node.exec("rm", "-f", "/etc/criu/runc.conf")
    assert "runc checkpoint failed" in failed.value.stderr
    client.wait_answers(50)
    assert_unharmed(client.close())
    assert node.sh(f"ls {archive} 2>/dev/null || true") == ""
    assert node.sh("ls /var/lib/crishim/logs/dump-*/") != ""
    checkpoint(node, container)


def test_refusals_touch_nothing(node, archive):
    """What cannot work is one clear error, and the container runs on."""
    pod = node.pod()
    container = pod.run()
    cases = [
        (("0123456789ab",), "not found"),
        ((container, "--output", "/nowhere/at/all.tar"), "/nowhere/at/all.tar"),
        ((container, "--output", "/tmp"), "directory"),
        ((container, "--name", "../evil"), "not a checkpoint name"),
    ]
    for arguments, expected in cases:
        with pytest.raises(nodes.CommandFailed) as failed:
            node.exec("crishim", "checkpoint", *arguments)
        assert expected in failed.value.stderr
    assert nodes.ask(pod.address, "count 1") == "count 1 1"
    with pytest.raises(nodes.CommandFailed) as failed:
        pod.create("/var/lib/crishim/none.tar")
    assert "no checkpoint /var/lib/crishim/none.tar" in failed.value.stderr


def state(node, container: str) -> str:
    """Return the state that CRI reports of a container."""
    return json.loads(node.crictl("inspect", container))["status"]["state"]


def test_the_stopped_containers_own_pod_is_refused(node, archive):
    """A pod whose container was stopped is cut off for good: a restore needs a new one."""
    pod = node.pod()
    checkpoint(node, pod.run(), "--stop")
    with pytest.raises(nodes.CommandFailed) as failed:
        pod.create(archive)
    assert "the pod is cut off" in failed.value.stderr
    assert "make a new pod" in failed.value.stderr
    successor = node.pod()
    node.crictl("start", successor.create(archive))
