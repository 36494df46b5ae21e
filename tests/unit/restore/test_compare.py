"""Which body a checkpoint fits into."""

import dataclasses
import platform
from pathlib import Path
from typing import Any

import pytest

from crishim._proto.runtime.v1 import api_pb2
from crishim.archive.manifest import BindMount, Manifest
from crishim.container import describe
from crishim.containerd.cri import Container
from crishim.errors import CrishimError, Precondition, Unsupported
from crishim.ids import ContainerId, SandboxId
from crishim.oci import devices
from crishim.restore import compare
from tests.unit.samples import manifest

ARCHIVE = Path("/var/lib/crishim/checkpoints/counter.tar")
DATA = {"destination": "/data", "source": "/srv/data", "options": ["rbind", "rw"]}


def body(*, state: int = api_pb2.CONTAINER_CREATED, **spec: Any) -> Container:
    return Container(
        id=ContainerId("c1"),
        sandbox=SandboxId("s1"),
        status=api_pb2.ContainerStatus(id="c1", state=state),
        pid=0,
        snapshotter="overlayfs",
        snapshot_key="c1",
        runtime_type="io.containerd.runc.v2",
        spec={"mounts": [DATA], **spec},
        config={},
    )


def checkpoint(**platform_changes: Any) -> Manifest:
    """A checkpoint of this machine, but for the changes."""
    made = manifest()
    here = {"architecture": platform.machine(), "cpu_features": describe.cpu_features()}
    changed = dataclasses.replace(made.platform, **{**here, **platform_changes})
    return dataclasses.replace(made, platform=changed)


def refusal(created: Container, source: Manifest) -> CrishimError:
    with pytest.raises(CrishimError) as caught:
        compare.check(created, source, ARCHIVE)
    return caught.value


def test_a_body_that_fits():
    compare.check(body(), checkpoint(), ARCHIVE)


@pytest.mark.parametrize("state", [api_pb2.CONTAINER_RUNNING, api_pb2.CONTAINER_EXITED])
def test_a_started_container_is_no_body(state):
    error = refusal(body(state=state), checkpoint())
    assert isinstance(error, Precondition) and "was started already" in str(error)


def test_a_terminal_cannot_be_restored_into():
    error = refusal(body(process={"terminal": True}), checkpoint())
    assert isinstance(error, Unsupported) and "terminal" in str(error)


def test_a_user_namespace_cannot_be_restored_into():
    error = refusal(body(linux={"namespaces": [{"type": "user"}]}), checkpoint())
    assert isinstance(error, Unsupported) and "user namespace" in str(error)


def test_another_architecture_is_named():
    error = refusal(body(), checkpoint(architecture="vax"))
    assert isinstance(error, Precondition) and "from vax" in str(error)


def test_missing_cpu_features_are_named_if_programs_choose_by_them():
    features = (*describe.cpu_features(), "avx512_teleport", "aes_of_tomorrow", "hypervisor_x")
    error = refusal(body(), checkpoint(cpu_features=features))
    assert "aes_of_tomorrow, avx512_teleport" in str(error)
    assert "hypervisor_x" not in str(error)


def test_a_newer_cpu_is_fine():
    compare.check(body(), checkpoint(cpu_features=()), ARCHIVE)


def test_all_missing_mounts_are_named_at_once():
    names = ("/data", "/zoo", "/cache", "/dev/shm", "/proc/acpi")
    mounts = tuple(
        BindMount(destination=name, source="/x", is_directory=True, readonly=False)
        for name in names
    )
    error = refusal(body(), dataclasses.replace(checkpoint(), bind_mounts=mounts))
    assert "counter.tar needs: /cache, /zoo" in str(error)


def test_devices_only_as_the_new_container_has_them():
    spec = {"linux": {"devices": [{"type": "c", "major": 10, "minor": 200}]}}
    allowed = devices.allowed(spec)
    assert allowed(True, 10, 200)
    assert not allowed(False, 10, 200)
    assert not allowed(True, 10, 201)
    assert not devices.allowed({"linux": {"devices": None}})(True, 10, 200)


def test_devices_that_every_container_has():
    """A chroot has its own null and urandom."""
    allowed = devices.allowed({})
    assert allowed(True, 1, 3)
    assert allowed(True, 1, 9)
    assert not allowed(False, 1, 3)
    assert not allowed(True, 1, 1)
