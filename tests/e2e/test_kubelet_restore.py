"""A pod restored behind a real kubelet: by its annotation, once, and never cold by itself."""

from __future__ import annotations

import uuid

import pytest

from tests.e2e import nodes
from tests.e2e.cluster import ENVIRONMENT
from tests.e2e.moves import eventually

NODE = "node1"
KUBELETS_CHECKPOINTS = "/var/lib/kubelet/checkpoints"


@pytest.fixture
def name(cluster):
    """A name in the node's store that is free after the test."""
    name = f"kept-{uuid.uuid4().hex[:6]}"
    yield name
    cluster.nodes[NODE].exec("rm", "-f", f"/var/lib/crishim/checkpoints/{name}.tar")


def counted(cluster, *arguments: str, **config):
    """Return a ready pod of the workload whose counter in memory stands at 3."""
    pod = cluster.workload(*arguments, node=NODE, **config).wait("condition=Ready")
    for number in (1, 2, 3):
        assert pod.ask(f"count {number}") == f"count {number} {number}"
    return pod


def restored(cluster, reference: str):
    """Return a pod that names a checkpoint in its annotation."""
    return cluster.workload(node=NODE, annotations={"crishim.io/restore": reference})


def test_pod_goes_on_from_the_kubelets_checkpoint(cluster):
    source = counted(cluster, "-log-every", "20ms")
    assert source.ask("write /tmp/kept first line") == "ok"
    archive = source.checkpoint()
    source.delete()
    pod = restored(cluster, archive).wait("condition=Ready")
    assert pod.ask("count 4") == "count 4 4"
    assert pod.ask("read /tmp/kept") == "read first line"
    numbers = [int(line.split()[1]) for line in pod.logs() if line.startswith("line ")]
    assert numbers == list(range(len(numbers)))


def test_restored_container_is_an_ordinary_one(cluster):
    source = counted(cluster, "-memory-mb", "20")
    archive, image = source.checkpoint(), source.container()["imageID"]
    source.delete()
    pod = restored(cluster, archive).wait("condition=Ready")
    assert pod.container()["imageID"] == image
    with pytest.raises(nodes.CommandFailed) as failed:
        pod.exec("/workload", "-no-such-flag")
    assert failed.value.status == 2
    assert pod.memory_bytes() > 20 << 20
    assert pod.checkpoint() != archive
    assert pod.ask("count 4") == "count 4 4"


def status_of(pod, *words: str) -> int:
    """Run a command in a pod and return its exit status."""
    try:
        pod.exec(*words)
    except nodes.CommandFailed as failed:
        return failed.status
    return 0


@pytest.mark.parametrize("daemon", ["crishim", "containerd"])
def test_restored_pod_lives_on_while_a_daemon_is_away(cluster, daemon):
    source = counted(cluster)
    archive = source.checkpoint()
    source.delete()
    pod = restored(cluster, archive).wait("condition=Ready")
    pod.node.exec("service", daemon, "crash")
    try:
        assert pod.ask("count 4") == "count 4 4"
    finally:
        pod.node.exec("service", daemon, "start")
    # The kubelet looks for a socket that was gone again after a second or so.
    eventually(lambda: status_of(pod, "/workload", "-no-such-flag") == 2)
    assert pod.ask("count 5") == "count 5 5"
    assert pod.container()["restartCount"] == 0


def test_crash_after_a_restore_starts_cold(cluster):
    source = counted(cluster)
    archive = source.checkpoint()
    source.delete()
    pod = restored(cluster, archive).wait("condition=Ready")
    assert pod.ask("count 4") == "count 4 4"
    pod.ask("exit 3")
    status = pod.wait_restarts(1)
    assert status["lastState"]["terminated"]["exitCode"] == 3
    assert pod.ask("count 1") == "count 1 1"


def test_failed_restore_is_tried_again_and_never_cold(cluster):
    source = counted(cluster)
    archive = source.checkpoint()
    node = source.node
    source.delete()
    broken = f"{KUBELETS_CHECKPOINTS}/broken-{uuid.uuid4().hex[:6]}.tar"
    node.sh(f"umask 077; head -c 20000 {archive} > {broken}")
    pod = restored(cluster, broken)
    assert "truncated" in pod.wait_event("Failed")
    assert "running" not in pod.container()["state"]
    node.exec("cp", "-p", archive, broken)
    pod.wait("condition=Ready", within_s=120)
    assert pod.ask("count 4") == "count 4 4"


def test_annotation_reaches_no_file_outside_the_stores(cluster):
    pod = restored(cluster, "/etc/passwd")
    assert "may not name" in pod.wait_event("Failed")
    assert "running" not in pod.container()["state"]


def test_stopped_container_is_held_until_its_pod_is_deleted(cluster, name):
    source = counted(cluster)
    address = source.address
    client = nodes.Client(address, env=ENVIRONMENT)
    client.wait_answers(50)
    source.crishim_checkpoint(name, "--stop")
    # The kubelet starts an ended container again at once: meanwhile it has done so with another's.
    ends = cluster.pod("true", spec={"nodeName": source.node.name})
    eventually(lambda: ends.container().get("restartCount", 0) > 0, within_s=60)
    assert "running" in source.container()["state"]
    assert source.container()["restartCount"] == 0
    source.delete()
    pod = restored(cluster, name).wait("condition=Ready")
    client.wait_answers(50)
    report = client.close()
    assert report["errors"] == []
    assert report["wire"] == []
    assert pod.address == address


def test_probes_do_not_fail_because_of_dumps(cluster):
    strict = {"periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": 1}
    pod = counted(
        cluster,
        "-memory-mb",
        "200",
        startupProbe={"tcpSocket": {"port": 9000}, "periodSeconds": 1, "failureThreshold": 60},
        livenessProbe={"exec": {"command": ["/workload", "-help"]}, **strict},
        readinessProbe={"tcpSocket": {"port": 9000}, **strict},
    )
    for _ in range(3):
        pod.checkpoint()
    pod.wait_probes(4)
    assert [why for why in pod.events("Unhealthy") if not why.startswith("Startup")] == []
    assert pod.container()["restartCount"] == 0
    assert pod.ask("count 4") == "count 4 4"
