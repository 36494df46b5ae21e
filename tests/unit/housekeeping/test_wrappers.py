"""A restored container whose directory was wiped can be stopped again: its wrapper comes back."""

import os
import subprocess

import grpc
import pytest

from crishim._proto.containerd.services.containers.v1 import containers_pb2
from crishim._proto.containerd.types.runc.options import oci_pb2
from crishim._proto.runtime.v1 import api_pb2
from crishim.containerd.channel import open_channel
from crishim.containerd.cri import Cri
from crishim.containerd.records import Records
from crishim.housekeeping import wrappers
from crishim.restore import plans
from tests.fakes.cri_server import RUNTIME, FakeRuntime, answer_by, serving

RESTORED, ORDINARY, SANDBOX = "a" * 64, "b" * 64, "c" * 64
GET = "/containerd.services.containers.v1.Containers/Get"


def record(container: str, binary: str) -> containers_pb2.Container:
    made = containers_pb2.Container(id=container)
    made.runtime.name = "io.containerd.runc.v2"
    made.runtime.options.type_url = "containerd.runc.v1.Options"
    made.runtime.options.value = oci_pb2.Options(binary_name=binary).SerializeToString()
    return made


@pytest.fixture
def runc(tmp_path):
    """A runc that writes down how it was called."""
    path = tmp_path / "runc-of-the-handler"
    path.write_text('#!/bin/sh\necho "$@" > "$0.called"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def wrapper(tmp_path):
    """Where containerd's record says that the wrapper is."""
    return tmp_path / "restores" / RESTORED / plans.WRAPPER


@pytest.fixture
async def node(tmp_path, runc, wrapper):
    """containerd with a restored container, an ordinary one, and their pod's sandbox."""
    records = {
        RESTORED: record(RESTORED, str(wrapper)),
        ORDINARY: record(ORDINARY, "runc"),
        SANDBOX: record(SANDBOX, str(runc)),
    }

    async def get(requests, context):
        async for raw in requests:
            asked = containers_pb2.GetContainerRequest.FromString(raw).id
            if asked not in records:
                await context.abort(grpc.StatusCode.NOT_FOUND, "no such record")
            found = containers_pb2.GetContainerResponse(container=records[asked])
            await context.write(found.SerializeToString())

    containers = [
        api_pb2.Container(id=container, pod_sandbox_id=SANDBOX)
        for container in (ORDINARY, RESTORED)
    ]
    runtime = FakeRuntime()
    runtime.answers[GET] = get
    runtime.answers[RUNTIME + "ListContainers"] = answer_by(
        lambda: api_pb2.ListContainersResponse(containers=containers)
    )
    async with serving(runtime, tmp_path / "containerd.sock"):
        channel = open_channel(tmp_path / "containerd.sock")
        node = {
            "cri": Cri(channel),
            "records": Records(channel, namespace="k8s.io"),
            "busy": lambda _: False,
        }
        yield node, records
        await channel.close()


def shim(wrapper, *words):
    return subprocess.run([wrapper, *words], capture_output=True, text=True, timeout=20)


async def test_a_wiped_wrapper_comes_back_and_kills_but_never_creates(node, wrapper, runc):
    assert await wrappers.put_back(**node[0]) == [RESTORED]
    assert shim(wrapper, "kill", RESTORED, "9").returncode == 0
    assert (runc.parent / f"{runc.name}.called").read_text() == f"kill {RESTORED} 9\n"
    refused = shim(wrapper, "create", "--bundle", "/b", RESTORED)
    assert refused.returncode == 1
    assert "restored before" in refused.stderr
    assert wrapper.parent.stat().st_mode & 0o777 == 0o700


async def test_what_is_whole_is_left_alone(node, wrapper, runc):
    wrapper.parent.mkdir(parents=True)
    plans.write_wrapper(wrapper.parent, runc="another")
    assert await wrappers.put_back(**node[0]) == []
    assert (wrapper.parent / "runc").read_text() == "another\n"


@pytest.mark.parametrize("lost", ["runc", plans.WRAPPER])
async def test_half_of_it_is_not_enough(node, wrapper, runc, lost):
    wrapper.parent.mkdir(parents=True)
    plans.write_wrapper(wrapper.parent, runc="another")
    (wrapper.parent / lost).unlink()
    assert await wrappers.put_back(**node[0]) == [RESTORED]
    assert os.access(wrapper, os.X_OK)
    left = str(runc) if lost == "runc" else "another"
    assert (wrapper.parent / "runc").read_text() == f"{left}\n"


async def test_a_record_that_cannot_be_read_does_not_cost_the_others(node, wrapper):
    del node[1][ORDINARY]
    assert await wrappers.put_back(**node[0]) == [RESTORED]


async def test_nothing_is_written_where_nobody_knows_which_runc_it_was(node, wrapper):
    del node[1][SANDBOX]
    assert await wrappers.put_back(**node[0]) == []
    assert not wrapper.exists()


async def test_one_that_is_being_dealt_with_is_looked_at_later(node, wrapper):
    assert await wrappers.put_back(**{**node[0], "busy": {RESTORED}.__contains__}) == []
    assert not wrapper.exists()
