"""What containerd's own test of checkpoint and restore looks at, one step after the other.

Those steps are the outside promise of containerd 2.1 to 2.3: a container is checkpointed while it
runs, it, its pod and its image are removed, and a container created with the archive as its image
goes on in a pod of the same name. The image comes from the node's registry.

Source: containerd 2.3.7 contrib/checkpoint/checkpoint-restore-cri-test.sh. Left out: the warning
that containerd's own restore is deprecated, and the archive wrapped into an OCI image.
"""

from __future__ import annotations

import json
import uuid

import pytest

from tests.e2e import nodes, programs
from tests.e2e.moves import ARCHIVE, eventually

IMAGE = "docker.io/library/busybox:latest"
COUNT = "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.1; done"
CDI_FILE = "/etc/cdi/crishim-test.json"
CDI_DEVICE = "crishim.test/device=gpu"
CDI_SPEC = {
    "cdiVersion": "0.6.0",
    "kind": "crishim.test/device",
    "devices": [{"name": "gpu", "containerEdits": {"env": ["DEVICE=gpu"]}}],
}
PARENTS = ("/crishim-test-old", "/crishim-test-new")
FIND_CGROUPS = "find /sys/fs/cgroup -ignore_readdir_race -path"
RESOURCES = {
    "cpu_period": 10000,
    "cpu_quota": 20000,
    "cpu_shares": 512,
    "memory_limit_in_bytes": 256 << 20,
}


@pytest.fixture
def pulled(node):
    """The node with the image freshly pulled; the image is there again afterwards."""
    node.crictl("pull", IMAGE)
    yield node
    node.exec("rm", "-f", ARCHIVE, CDI_FILE)
    node.clean()
    for parent in PARENTS:  # containerd makes them and leaves them
        node.sh(f"find /sys/fs/cgroup -depth -type d -path '*{parent}' -exec rmdir {{}} +")
    node.crictl("pull", IMAGE)


def pod_config(**changes: object) -> dict[str, object]:
    """Return what two pods of one name, one after the other, have in common."""
    return {
        "metadata": {"name": "podsandbox1", "namespace": "other", "uid": "same", "attempt": 1},
        "hostname": "crictl-host",
        "log_directory": f"/var/log/pods/same-{uuid.uuid4().hex[:6]}",
        **changes,
    }


def container_config(**changes: object) -> dict[str, object]:
    """Return what the container and its successor have in common: also the path of the log."""
    return {
        "metadata": {"name": "podsandbox-sleep"},
        "command": ["/bin/sh", "-c", COUNT],
        "annotations": {"pod": "podsandbox"},
        "log_path": "log.file",
        "linux": {"resources": RESOURCES},
        **changes,
    }


def lines(node: nodes.Node, container: str) -> list[int]:
    """Return the numbers in the container's log."""
    return [int(line.split()[1]) for line in node.crictl("logs", container).splitlines()]


def has_image(node: nodes.Node) -> bool:
    try:
        node.crictl("inspecti", IMAGE)
    except nodes.CommandFailed:
        return False
    return True


def forget(pod: nodes.Pod, container: str) -> None:
    """Remove the container, its pod and its image."""
    pod.node.crictl("rm", "-f", container)
    pod.node.crictl("rmp", "-f", pod.id)
    pod.node.crictl("rmi", IMAGE)
    assert not has_image(pod.node)


def test_a_container_from_an_archive(pulled):
    """Log, files, image and annotations of a container that is restored from its archive."""
    node, config = pulled, pod_config()
    node.sh(f"mkdir -p /etc/cdi; echo '{json.dumps(CDI_SPEC)}' > {CDI_FILE}")
    pod = node.pod(**config)
    marks = {"cdi.k8s.io/device": CDI_DEVICE, "safe.annotation": "true"}
    container = pod.create(IMAGE, **container_config(annotations=marks))
    node.crictl("start", container)
    eventually(lambda: len(lines(node, container)) > 5)
    node.crictl("exec", container, "touch", "/root/testfile")
    node.crictl("exec", container, "rm", "/etc/group")
    node.crictl("checkpoint", "--export", ARCHIVE, container)
    before = len(lines(node, container))
    forget(pod, container)
    node.exec("rm", CDI_FILE)

    pod = node.pod(**config)
    container = pod.create(ARCHIVE, **container_config())
    assert has_image(node)
    node.crictl("start", container)
    eventually(lambda: len(lines(node, container)) > before + 5)
    numbers = lines(node, container)
    assert numbers == list(range(len(numbers)))

    status = json.loads(node.crictl("inspect", container))["status"]
    assert status["annotations"] == {"pod": "podsandbox", "safe.annotation": "true"}
    assert status["image"]["image"] == IMAGE

    node.crictl("rmi", IMAGE)
    assert not has_image(node)
    assert "/root/testfile" in node.crictl("exec", container, "ls", "/root/testfile")
    with pytest.raises(nodes.CommandFailed):
        node.crictl("exec", container, "ls", "/etc/group")
    node.crictl("rmp", "-f", pod.id)


def test_another_cgroup_parent(pulled):
    """The pod of the restored container hangs elsewhere: its processes and limits do too."""
    node, (old, new) = pulled, PARENTS
    pod = node.pod(**pod_config(linux={"cgroup_parent": old}))
    container = pod.create(IMAGE, **container_config())
    node.crictl("start", container)
    assert parents_of(node, container) == {old}
    node.crictl("checkpoint", "--export", ARCHIVE, container)
    forget(pod, container)

    pod = node.pod(**pod_config(linux={"cgroup_parent": new}))
    container = pod.create(ARCHIVE, **container_config())
    node.crictl("start", container)
    before = len(lines(node, container))
    eventually(lambda: len(lines(node, container)) > before + 5)
    assert parents_of(node, container) == {new}
    limit = "memory.limit_in_bytes|memory.max"
    script = f"{FIND_CGROUPS} '*{new}/{container}/*' | grep -E '/({limit})$' | xargs cat"
    assert int(node.sh(script)) == RESOURCES["memory_limit_in_bytes"]
    eventually(lambda: node.sh(f"{FIND_CGROUPS} '*{old}/*' -type d") == "", outcome=True)
    node.crictl("rmi", IMAGE)
    assert not has_image(node)


def parents_of(node: nodes.Node, container: str) -> set[str]:
    """Return the parents of the cgroups that the container's processes are in."""
    pid = programs.pid(node, container)
    paths = {line.split(":")[2] for line in node.exec("cat", f"/proc/{pid}/cgroup").splitlines()}
    return {path.removesuffix(f"/{container}") for path in paths if path.endswith(container)}
