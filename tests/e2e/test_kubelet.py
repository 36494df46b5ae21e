"""crishim between a real kubelet and containerd: pods live, and are checkpointed, as usual."""

from __future__ import annotations

import json

import pytest

from tests.e2e import nodes
from tests.e2e.waiting import eventually

COUNT = ("sh", "-c", "n=0; while :; do n=$((n+1)); echo line $n; sleep 0.1; done")
SERVE = ("httpd", "-f", "-p", "8080", "-h", "/etc")
# Strict enough that a pause of a second in the container would show.
EVERY_SECOND = {"periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 1}


def test_nodes_are_ready_with_containerd_behind_crishim(cluster):
    listed = json.loads(cluster.kubectl("get", "nodes", "-o", "json"))["items"]
    assert {node["metadata"]["name"] for node in listed} == set(cluster.nodes)
    for node in listed:
        conditions = {each["type"]: each["status"] for each in node["status"]["conditions"]}
        assert conditions["Ready"] == "True"
        assert node["status"]["nodeInfo"]["containerRuntimeVersion"].startswith("containerd://")


def test_pod_runs_and_is_reached(cluster):
    pod = cluster.pod(*SERVE).wait("condition=Ready")
    page = f"http://{pod.address}:8080/passwd"
    fetch = f"import urllib.request as u; print(u.urlopen({page!r}, timeout=10).read().decode())"
    assert "nobody" in cluster.lab("net", "--", "python3", "-c", fetch)


def test_logs_and_exec_go_through(cluster):
    pod = cluster.pod(*COUNT).wait("condition=Ready")
    assert pod.exec("echo", "hello").strip() == "hello"
    account = "/var/run/secrets/kubernetes.io/serviceaccount"
    assert pod.exec("cat", f"{account}/namespace") == "default"
    with pytest.raises(nodes.CommandFailed) as failed:
        pod.exec("sh", "-c", "exit 7")
    assert failed.value.status == 7
    lines = pod.logs()
    assert lines == [f"line {number}" for number in range(1, len(lines) + 1)]


def test_probes_of_all_kinds_succeed(cluster):
    get = {"path": "/passwd", "port": 8080}
    pod = cluster.pod(
        *SERVE,
        startupProbe={"tcpSocket": {"port": 8080}, "periodSeconds": 1},
        readinessProbe={"exec": {"command": ["test", "-e", "/etc/passwd"]}, **EVERY_SECOND},
        livenessProbe={"httpGet": get, **EVERY_SECOND},
    ).wait("condition=Ready")
    pod.wait_probes(6)
    assert pod.container()["ready"]
    assert pod.container()["restartCount"] == 0


def test_failed_probe_has_the_container_started_again(cluster):
    pod = cluster.pod(
        *COUNT, livenessProbe={"exec": {"command": ["test", "!", "-e", "/ill"]}, **EVERY_SECOND}
    ).wait("condition=Ready")
    pod.exec("touch", "/ill")
    status = pod.wait_restarts(1)
    assert status["lastState"]["terminated"]["exitCode"] == 137  # it ignores SIGTERM as process 1


def test_ended_container_is_started_again_with_its_exit_code_known(cluster):
    pod = cluster.pod("sh", "-c", "sleep 2; exit 3").wait("condition=Ready")
    assert pod.wait_restarts(1)["lastState"]["terminated"]["exitCode"] == 3


def test_checkpoint_endpoint_writes_an_archive_and_the_pod_goes_on(cluster):
    pod = cluster.pod(*COUNT, livenessProbe={"exec": {"command": ["true"]}, **EVERY_SECOND}).wait(
        "condition=Ready"
    )
    archive = pod.checkpoint()
    assert archive.startswith(f"/var/lib/kubelet/checkpoints/checkpoint-{pod.name}_default-main-")
    entries = {name.rstrip("/") for name in pod.node.exec("tar", "-tf", archive).splitlines()}
    assert {"spec.dump", "config.dump", "checkpoint/inventory.img"} <= entries
    seen = len(pod.logs())
    pod.wait_probes(2)
    eventually(lambda: len(pod.logs()) > seen)
    lines = pod.logs()
    assert lines == [f"line {number}" for number in range(1, len(lines) + 1)]
    assert pod.container()["restartCount"] == 0


def test_checkpoint_of_an_unknown_container_is_not_found(cluster):
    pod = cluster.pod(*COUNT).wait("condition=Ready")
    with pytest.raises(nodes.CommandFailed) as failed:
        pod.checkpoint("other")
    assert "404" in failed.value.stderr


def test_checkpoint_without_criu_fails_in_the_words_that_kubernetes_knows(cluster):
    pod = cluster.pod(*COUNT).wait("condition=Ready")
    pod.node.exec("mv", "/usr/sbin/criu", "/usr/sbin/criu.away")
    try:
        with pytest.raises(nodes.CommandFailed, match=r"too old \(<31600\). Failed to checkpoint"):
            pod.checkpoint()
    finally:
        pod.node.exec("mv", "/usr/sbin/criu.away", "/usr/sbin/criu")
    assert pod.exec("echo", "hello").strip() == "hello"


def test_pods_live_on_while_crishim_is_away(cluster):
    pod = cluster.pod(*COUNT).wait("condition=Ready")
    before = pod.container()["containerID"]
    pod.node.exec("service", "crishim", "kill")
    pod.node.exec("service", "crishim", "start")
    later = cluster.pod(*COUNT).wait("condition=Ready")
    assert later.exec("echo", "hello").strip() == "hello"
    assert pod.container()["containerID"] == before
    assert pod.container()["restartCount"] == 0
