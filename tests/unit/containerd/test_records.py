"""containerd's records: a task is deleted when its processes have ended, and not before."""

import asyncio

import grpc
import pytest

from crishim._proto.containerd.services.tasks.v1 import tasks_pb2
from crishim.containerd import records as module
from crishim.containerd.channel import open_channel
from crishim.containerd.records import Records
from crishim.errors import RuntimeRefused
from crishim.ids import container_id
from tests.fakes.cri_server import FakeRuntime, serving

TASKS = "/containerd.services.tasks.v1.Tasks/"
ID = container_id("c" * 64)


class Tasks:
    """containerd's tasks of one container: there, running, asked for what."""

    def __init__(self, *, there: bool, runs: bool) -> None:
        self.there, self.runs = there, runs
        self.asked: list[tuple[str, str]] = []

    async def wait(self, requests, context):
        await self._find("wait", tasks_pb2.WaitRequest, requests, context)
        if self.runs:
            await asyncio.Event().wait()
        await context.write(tasks_pb2.WaitResponse(exit_status=137).SerializeToString())

    async def delete(self, requests, context):
        await self._find("delete", tasks_pb2.DeleteTaskRequest, requests, context)
        self.there = False
        await context.write(tasks_pb2.DeleteResponse(exit_status=137).SerializeToString())

    async def _find(self, verb, kind, requests, context):
        async for raw in requests:
            self.asked.append((verb, kind.FromString(raw).container_id))
        assert ("containerd-namespace", "k8s.io") in context.invocation_metadata()
        if not self.there:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such task")


@pytest.fixture
async def records(tmp_path):
    """Records of a containerd with such tasks."""
    runtime, socket = FakeRuntime(), tmp_path / "containerd.sock"
    async with serving(runtime, socket):
        channel = open_channel(socket)

        def of(tasks: Tasks) -> Records:
            runtime.answers |= {TASKS + "Wait": tasks.wait, TASKS + "Delete": tasks.delete}
            return Records(channel, namespace="k8s.io")

        yield of
        await channel.close()


async def test_an_ended_task_is_deleted(records) -> None:
    tasks = Tasks(there=True, runs=False)
    assert await records(tasks).delete_task(ID)
    assert tasks.asked == [("wait", ID), ("delete", ID)]
    assert not tasks.there


async def test_a_task_that_is_not_there_is_no_error(records) -> None:
    assert not await records(Tasks(there=False, runs=False)).delete_task(ID)


async def test_a_task_that_runs_is_left_alone(records, monkeypatch) -> None:
    """Deleting it would take its shim away from processes that live on."""
    monkeypatch.setattr(module, "_TASK_END_S", 0.05)
    tasks = Tasks(there=True, runs=True)
    with pytest.raises(RuntimeRefused):
        await records(tasks).delete_task(ID)
    assert tasks.asked == [("wait", ID)]
    assert tasks.there
