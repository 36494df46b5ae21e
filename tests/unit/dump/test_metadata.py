"""The JSON entries that other engines' tools read."""

import json

from crishim._proto.runtime.v1 import api_pb2
from crishim.containerd.cri import Container
from crishim.dump import metadata
from crishim.ids import ContainerId, SandboxId

FROZEN_AT_NS = 1_700_000_000_123_456_789


def container() -> Container:
    status = api_pb2.ContainerStatus(
        id="c1",
        metadata=api_pb2.ContainerMetadata(name="counter", attempt=2),
        state=api_pb2.CONTAINER_RUNNING,
        created_at=1_600_000_000_000_000_001,
        started_at=1_600_000_001_000_000_000,
        image=api_pb2.ImageSpec(image="sha256:abc", user_specified_image="redis:8"),
        image_ref="sha256:abc",
        labels={"app": "käse"},
        mounts=[api_pb2.Mount(container_path="/data", host_path="/srv", readonly=True)],
    )
    return Container(
        id=ContainerId("c1"),
        sandbox=SandboxId("s1"),
        status=status,
        pid=42,
        snapshotter="overlayfs",
        snapshot_key="c1",
        runtime_type="io.containerd.runc.v2",
        spec={"ociVersion": "1.2.0", "hostname": "käse"},
        config={},
    )


def entries() -> dict[str, dict]:
    made = metadata.entries(container(), checkpointed_at_ns=FROZEN_AT_NS)
    return {name: json.loads(data) for name, data in made.items()}


def test_config_has_the_keys_of_checkpointctl():
    config = entries()["config.dump"]
    assert config["id"] == "c1"
    assert config["name"] == "counter"
    assert config["rootfsImage"] == config["rootfsImageName"] == "redis:8"
    assert config["rootfsImageRef"] == "sha256:abc"
    assert config["runtime"] == "io.containerd.runc.v2"


def test_times_keep_their_nanoseconds():
    config = entries()["config.dump"]
    assert config["createdTime"] == "2020-09-13T12:26:40.000000001Z"
    assert config["checkpointedTime"] == "2023-11-14T22:13:20.123456789Z"


def test_the_spec_is_the_containers_own():
    assert entries()["spec.dump"] == container().spec


def test_cri_status_is_written_as_go_writes_it():
    status = entries()["status.dump"]
    assert status["metadata"] == {"name": "counter", "attempt": 2}
    assert status["state"] == 1
    assert status["created_at"] == 1_600_000_000_000_000_001
    assert status["labels"] == {"app": "käse"}
    assert status["mounts"] == [{"container_path": "/data", "host_path": "/srv", "readonly": True}]


def test_containerds_own_status():
    status = entries()["status"]
    assert status["Version"] == "v1"
    assert status["Pid"] == 42
    assert status["StartedAt"] == 1_600_000_001_000_000_000
    assert status["FinishedAt"] == 0
