"""Pods as clusters have them, restored behind a real kubelet: several containers, other nodes."""

from __future__ import annotations

import subprocess
import uuid

import pytest

from tests.e2e import nodes
from tests.e2e.cluster import BUSYBOX, ENVIRONMENT
from tests.e2e.moves import assert_unharmed

NODE, OTHER = "node1", "node2"
STORE = "/var/lib/crishim/checkpoints"
OTHERS_SUBNET = "10.88.2."
API_SERVER = "192.168.50.1:6443"
SIDE_PORT = 9001
SIDE = {
    "name": "side",
    "image": nodes.IMAGE,
    "imagePullPolicy": "Never",
    "command": ["/workload", "-port", str(SIDE_PORT), "-log-every", "20ms"],
}
INIT = {"name": "init", "image": BUSYBOX, "imagePullPolicy": "Never", "command": ["true"]}
REALISTIC = {
    "securityContext": {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    },
    "resources": {
        "requests": {"cpu": "50m", "memory": "32Mi"},
        "limits": {"cpu": "1", "memory": "128Mi"},
    },
    "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
    "livenessProbe": {"exec": {"command": ["/workload", "-help"]}, "periodSeconds": 1},
    "readinessProbe": {"httpGet": {"path": "/", "port": 9000}, "periodSeconds": 1},
    "volumeMounts": [
        {"name": "scratch", "mountPath": "/scratch"},
        {"name": "memory", "mountPath": "/memory"},
        {"name": "settings", "mountPath": "/settings"},
    ],
}


@pytest.fixture
def name(cluster):
    """A name in the first node's store that is free after the test."""
    name = f"kept-{uuid.uuid4().hex[:6]}"
    yield name
    cluster.nodes[NODE].exec("rm", "-f", f"{STORE}/{name}.tar")


@pytest.fixture
def volumes(cluster):
    """The volumes of a realistic pod, with a configMap that is gone after the test."""
    name = f"settings-{uuid.uuid4().hex[:6]}"
    cluster.kubectl("create", "configmap", name, "--from-literal=key=a value")
    yield [
        {"name": "scratch", "emptyDir": {}},
        {"name": "memory", "emptyDir": {"medium": "Memory"}},
        {"name": "settings", "configMap": {"name": name}},
    ]
    cluster.kubectl("delete", "configmap", name)


def pod_of(cluster, *, restore: str = "", node: str = NODE, **config):
    """Give a pod of the workload to the API server, restored if a reference is given.

    Args: config: crishim's annotations by their last words, and what `Cluster.pod` takes.
    """
    words = {
        f"crishim.io/{word.replace('_', '-')}": config.pop(word)
        for word in ("address", "tcp", "on_restore_failure")
        if word in config
    }
    if restore:
        words["crishim.io/restore"] = restore
    return cluster.workload("-log-every", "20ms", node=node, annotations=words, **config)


def two_containers(cluster, **config):
    """Give a pod with a second container, `side`, to the API server."""
    return pod_of(cluster, others=[SIDE], **config)


def assert_log_goes_on(lines: list[str]) -> None:
    """Each line of the workload's log is there once, those before the checkpoint too."""
    numbers = [int(line.split()[1]) for line in lines if line.startswith("line ")]
    assert numbers == list(range(len(numbers)))
    assert numbers


def confinement(pod) -> dict[str, str]:
    """Return what the kernel says of a container's users, capabilities and filters."""
    container = pod.container()["containerID"].removeprefix("containerd://")
    pid = f"$(crictl inspect -o go-template --template {{{{.info.pid}}}} {container})"
    lines = pod.node.sh(f"cat /proc/{pid}/status").splitlines()
    status = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
    wanted = ("Uid", "Gid", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp", "Seccomp_filters")
    return {key: status[key] for key in wanted}


def copy_archive(cluster, path: str, name: str) -> None:
    """Copy an archive from the first node into the other's store, as an administrator would."""
    lab = str(nodes.LAB)
    keep = f"umask 077; mkdir -p {STORE}; cat > {STORE}/{name}.tar"
    with subprocess.Popen(
        [lab, "exec", NODE, "--", "cat", path], stdout=subprocess.PIPE, env=ENVIRONMENT
    ) as source:
        target = [lab, "exec", OTHER, "--", "sh", "-ec", keep]
        subprocess.run(target, stdin=source.stdout, env=ENVIRONMENT, check=True, timeout=60)
    assert source.returncode == 0


def test_both_containers_of_a_pod_go_on(cluster, name):
    source = two_containers(cluster).wait("condition=Ready")
    assert source.ask("count 1") == "count 1 1"
    source.ask("count 1", port=SIDE_PORT)
    assert source.ask("count 2", port=SIDE_PORT) == "count 2 2"
    main = source.checkpoint("main")
    source.crishim_checkpoint(name, container="side")
    address = source.address
    source.delete()
    pod = two_containers(cluster, restore=f"main={main}, side={name}", address="keep")
    pod.wait("condition=Ready")
    assert pod.address == address
    assert pod.ask("count 2") == "count 2 2"
    assert pod.ask("count 3", port=SIDE_PORT) == "count 3 3"
    assert_log_goes_on(pod.logs("-c", "main"))
    assert_log_goes_on(pod.logs("-c", "side"))


def test_container_that_the_annotation_does_not_name_starts_cold(cluster, name):
    source = two_containers(cluster).wait("condition=Ready")
    assert source.ask("count 1") == "count 1 1"
    assert source.ask("count 1", port=SIDE_PORT) == "count 1 1"
    source.crishim_checkpoint(name, container="side")
    # The source lives on: a new address beside it is the default then.
    pod = two_containers(cluster, restore=f"side={name}").wait("condition=Ready")
    assert pod.ask("count 1") == "count 1 1"
    assert pod.ask("count 2", port=SIDE_PORT) == "count 2 2"
    assert source.ask("count 2", port=SIDE_PORT) == "count 2 2"


def test_annotation_that_does_not_fit_the_pods_containers_is_refused(cluster, name):
    source = two_containers(cluster).wait("condition=Ready")
    source.crishim_checkpoint(name)
    misspelt = two_containers(cluster, restore=f"mian={name}")
    nameless = two_containers(cluster, restore=name)
    assert "gives the checkpoint of container main to 'mian'" in misspelt.wait_event("Failed")
    assert "of container main, and this is side" in nameless.wait_event("Failed")
    assert "running" not in misspelt.container()["state"]
    assert "running" not in nameless.container("side")["state"]


def test_stop_of_one_container_among_several_is_refused_and_harms_nobody(cluster, name):
    pod = two_containers(cluster).wait("condition=Ready")
    client = nodes.Client(pod.address, env=ENVIRONMENT)
    client.wait_answers(50)
    with pytest.raises(nodes.CommandFailed, match="other containers of the pod are running"):
        pod.crishim_checkpoint(name, "--stop", container="side")
    client.wait_answers(50)
    assert_unharmed(client.close())
    assert pod.ask("count 1", port=SIDE_PORT) == "count 1 1"
    assert [pod.container(each)["restartCount"] for each in ("main", "side")] == [0, 0]


def test_pods_go_on_on_the_other_node(cluster, name):
    """One with an address of that node's subnet, one with the source's, as soon as that is gone."""
    source = pod_of(cluster).wait("condition=Ready")
    assert source.ask("count 1") == "count 1 1"
    assert source.ask("write /tmp/kept first line") == "ok"
    address = source.address
    copy_archive(cluster, source.checkpoint(), name)
    kept = pod_of(cluster, restore=name, node=OTHER, address="keep", tcp="close")
    new = pod_of(cluster, restore=name, node=OTHER, address="new", tcp="close")
    assert f"the address {address} is in use on the network" in kept.wait_event("Failed")
    assert source.ask("count 2") == "count 2 2"
    source.delete()
    assert new.wait("condition=Ready").address.startswith(OTHERS_SUBNET)
    assert kept.wait("condition=Ready", within_s=120).address == address
    for pod in (new, kept):
        assert pod.ask("count 2") == "count 2 2"
        assert pod.ask("read /tmp/kept") == "read first line"
        assert pod.ask(f"dial {API_SERVER}").startswith(f"local {pod.address}:")
    assert_log_goes_on(new.logs())
    cluster.nodes[OTHER].exec("rm", f"{STORE}/{name}.tar")


def test_second_replica_with_the_same_address_is_refused(cluster, name):
    source = pod_of(cluster).wait("condition=Ready")
    assert source.ask("count 1") == "count 1 1"
    address = source.address
    source.crishim_checkpoint(name, "--stop")
    source.delete()
    first = pod_of(cluster, restore=name).wait("condition=Ready")
    client = nodes.Client(address, env=ENVIRONMENT)
    client.wait_answers(20)
    second = pod_of(cluster, restore=name)
    third = pod_of(cluster, restore=name, address="new")
    assert f"the address {address} is in use" in second.wait_event("Failed")
    assert third.wait("condition=Ready").ask("count 2") == "count 2 2"
    assert "running" not in second.container()["state"]
    assert first.address == address != third.address
    client.wait_answers(20)
    assert_unharmed(client.close())


def test_pod_that_prefers_a_cold_start_gets_one_and_is_told(cluster, name):
    source = pod_of(cluster).wait("condition=Ready")
    assert source.ask("count 1") == "count 1 1"
    damaged = f"{STORE}/{name}.tar"
    source.node.sh(f"umask 077; mkdir -p {STORE}; head -c 20000 {source.checkpoint()} > {damaged}")
    source.node.exec("touch", "-d", "2020-01-01", damaged)  # nobody is copying it any more
    pod = pod_of(cluster, restore=name, on_restore_failure="cold").wait("condition=Ready")
    assert pod.ask("count 1") == "count 1 1"
    said = pod.wait_event("Failed")
    assert "truncated" in said
    assert "the pod prefers a cold start now" in said


def test_realistic_pod_goes_on(cluster, volumes, name):
    config = {"spec": {"volumes": volumes, "initContainers": [INIT]}, **REALISTIC}
    source = pod_of(cluster, **config).wait("condition=Ready")
    assert source.ask("count 1") == "count 1 1"
    uid = source.get()["metadata"]["uid"]
    volumes_on_node = f"/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir"
    source.node.exec("touch", f"{volumes_on_node}/scratch/left")
    assert source.ask("read /scratch/left") == "read"
    before = confinement(source)
    assert before["Seccomp"] == "2"
    source.crishim_checkpoint(name)
    source.delete()
    pod = pod_of(cluster, restore=f"main={name}", **config).wait("condition=Ready")
    assert pod.ask("count 2") == "count 2 2"
    assert confinement(pod) == before
    assert pod.ask("read /settings/key") == "read a value"
    assert pod.ask("read /scratch/left").startswith("error")  # a new pod's emptyDir is empty
    assert pod.ask("write /scratch/new x") == "ok"
    assert pod.ask("write /tmp/new x").startswith("error")  # its root is read-only still
    pod.wait_probes(4)
    assert pod.events("Unhealthy") == []
    assert pod.container()["restartCount"] == 0


def test_open_file_that_a_new_pods_volume_lacks_is_named(cluster, volumes, name):
    config = {"spec": {"volumes": volumes}, **REALISTIC}
    source = pod_of(cluster, **config).wait("condition=Ready")
    assert source.ask("write /scratch/open x") == "ok"
    source.crishim_checkpoint(name)
    pod = pod_of(cluster, restore=name, **config)
    assert "Can't open file scratch/open" in pod.wait_event("Failed")
    assert "running" not in pod.container()["state"]


def test_same_pod_moves_five_times(cluster, name):
    """One client stays connected all the time; what is left behind the fixture would find."""
    pod = pod_of(cluster).wait("condition=Ready")
    address = pod.address
    client = nodes.Client(address, env=ENVIRONMENT)
    client.wait_answers(20)
    for _ in range(5):
        pod.crishim_checkpoint(name, "--stop")
        pod.delete()
        pod = pod_of(cluster, restore=name).wait("condition=Ready")
        client.wait_answers(20)
        pod.node.exec("crishim", "rm", name)
    assert_unharmed(client.close())
    assert pod.address == address
    assert_log_goes_on(pod.logs())
