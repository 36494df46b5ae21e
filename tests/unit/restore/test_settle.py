"""What became of a restore: the answers of containerd count, and who still works on it."""

import asyncio
from types import SimpleNamespace

import grpc
import pytest

from crishim._proto.runtime.v1 import api_pb2
from crishim.errors import RuntimeNotFound, RuntimeUnavailable
from crishim.restore import settle

REFUSALS = {
    grpc.StatusCode.NOT_FOUND: RuntimeNotFound,
    grpc.StatusCode.UNAVAILABLE: RuntimeUnavailable,
}


class Containerd:
    """Answers with what it is given, in turn."""

    def __init__(self, *answers):
        self.answers = list(answers)

    async def container(self, _):
        answer = self.answers.pop(0)
        if isinstance(answer, grpc.StatusCode):
            raise REFUSALS[answer](answer.name)
        status = SimpleNamespace(state=answer)
        return SimpleNamespace(running=answer == api_pb2.CONTAINER_RUNNING, status=status)


@pytest.fixture(autouse=True)
def no_mounts(monkeypatch):
    monkeypatch.setattr("crishim.tools.criu.sweep_yards", list)


async def test_a_container_that_is_gone_is_an_answer(tmp_path):
    """It was asked for half a minute, with the container locked."""
    cri = Containerd(grpc.StatusCode.NOT_FOUND)
    async with asyncio.timeout(1):
        assert not await settle.runs_after_all("c1", tmp_path, cri=cri)


async def test_a_containerd_that_starts_again_is_waited_for(tmp_path):
    away = grpc.StatusCode.UNAVAILABLE
    unknown = api_pb2.CONTAINER_UNKNOWN  # it cannot reach the shim
    created, runs = api_pb2.CONTAINER_CREATED, api_pb2.CONTAINER_RUNNING
    cri = Containerd(away, away, created, away, unknown, runs)
    assert await settle.runs_after_all("c1", tmp_path, cri=cri)


class Refusing(Containerd):
    """Refuses to end a container some times, whose states it tells in turn."""

    def __init__(self, refusals, *states):
        super().__init__(*states)
        self.refusals = refusals
        self.asked = 0

    async def end_container(self, _):
        self.asked += 1
        if self.asked <= self.refusals:
            raise RuntimeUnavailable("away")


@pytest.mark.parametrize(
    "state", [api_pb2.CONTAINER_UNKNOWN, api_pb2.CONTAINER_RUNNING, grpc.StatusCode.UNAVAILABLE]
)
@pytest.mark.parametrize("then", [api_pb2.CONTAINER_EXITED, grpc.StatusCode.NOT_FOUND])
async def test_a_container_that_could_not_be_ended_is_ended_again(monkeypatch, caplog, state, then):
    """One that containerd called unknown was waited for, and nobody asked again to end it."""
    monkeypatch.setattr(settle, "_END_AGAIN_S", 0)
    monkeypatch.setattr(settle, "_RUNTIME_BACK_S", 1)
    cri = Refusing(2, state, state, then)
    await settle.ended("c1", cri=cri)
    assert cri.asked == 3 and not cri.answers
    assert len(caplog.records) == 1


async def test_a_container_that_cannot_be_ended_is_asked_for_at_leisure(monkeypatch):
    monkeypatch.setattr(settle, "_RUNTIME_BACK_S", 0.2)
    cri = Refusing(1000, *[api_pb2.CONTAINER_RUNNING] * 1000)
    with pytest.raises(settle.Unsettled):
        await settle.ended("c1", cri=cri)
    assert cri.asked == 1
