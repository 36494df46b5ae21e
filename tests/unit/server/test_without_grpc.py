"""Methods of CRI that crishim changes, called by something that is no gRPC server.

What a relay on the level of frames would do: it makes a `Call` of bytes, and gets bytes back.
"""

import sys
from types import SimpleNamespace

import pytest

from crishim._proto.runtime.v1 import api_pb2
from crishim.errors import Busy, Precondition
from crishim.flow.locks import Locks
from crishim.server.calls import Calls
from crishim.server.cri.containers import Containers
from crishim.server.cri.execs import Execs
from crishim.server.cri.methods import CriMethods
from crishim.server.cri.sandboxes import PodSandboxes
from crishim.server.relay.overrides import Call, StreamCall

RUNTIME = "/runtime.v1.RuntimeService/"
ID, SANDBOX = "c" * 64, "5" * 64


class Records:
    """Every pod has another address than CNI says."""

    any = True

    def get(self, _):
        return SimpleNamespace(preserved=SimpleNamespace(global_addresses=("10.0.0.9",)))


class Node:
    """The methods with the flows behind them faked; whoever calls them is a relay."""

    def __init__(self) -> None:
        self.locks, self.calls = Locks(), Calls()
        self.dumped, self.passed = [], []
        self.stopped = None
        self.answer = b"of containerd"
        records = SimpleNamespace(sandboxes=lambda: [SANDBOX] if self.stopped else [])
        held = SimpleNamespace(records=records)
        leftovers = SimpleNamespace(waits=lambda _: False)
        containers = Containers(
            calls=self.calls, cri=None, images=None, dumper=self, restorer=None,
            leftovers=leftovers, held=held, locks=self.locks, store=None, restored=None,
            timeout_s=60,
        )  # fmt: skip
        sandboxes = PodSandboxes(
            calls=self.calls, cri=None, leftovers=leftovers, held=held, locks=self.locks,
            mptcp=None, addresses=SimpleNamespace(records=Records()),
        )  # fmt: skip
        self.methods = CriMethods(
            containers=containers, sandboxes=sandboxes, execs=Execs(locks=self.locks)
        )

    async def dump(self, request, phases) -> None:
        self.dumped.append((request, self.calls.unfinished))

    async def call(self, method: str, request) -> bytes:
        async def forward(raw: bytes) -> bytes:
            self.passed.append((method, raw))
            return self.answer

        return await self.methods.overrides()[RUNTIME + method](
            Call(request.SerializeToString(), forward)
        )


@pytest.fixture
def node():
    return Node()


async def test_a_checkpoint_is_a_flow_of_ours(node):
    request = api_pb2.CheckpointContainerRequest(container_id=ID, location="/tmp/a.tar")
    assert await node.call("CheckpointContainer", request) == b""
    [(dump, unfinished)] = node.dumped
    assert (dump.container, str(dump.output), dump.replace) == (ID, "/tmp/a.tar", True)
    assert unfinished == (f"checkpoint of {ID[:13]}",)
    assert node.passed == []


async def test_what_is_not_ours_passes_with_fields_that_nobody_knows(node):
    request = api_pb2.CreateContainerRequest.FromString(b"\xfa\x7f\x03new")
    assert await node.call("CreateContainer", request) == b"of containerd"
    assert node.passed == [("CreateContainer", b"\xfa\x7f\x03new")]


async def test_a_refusal_is_an_error_of_ours(node):
    node.stopped = True
    request = api_pb2.CreateContainerRequest(pod_sandbox_id=SANDBOX)
    with pytest.raises(Precondition, match="the pod is cut off"):
        await node.call("CreateContainer", request)
    node.stopped = None
    with (
        node.locks.hold(ID, "checkpoint", sandbox=SANDBOX) as operation,
        node.locks.cutting_off(operation),
        pytest.raises(Busy),
    ):
        await node.call("CreateContainer", request)
    assert node.passed == []


async def test_an_answer_is_corrected(node):
    node.answer = api_pb2.PodSandboxStatusResponse(
        status=api_pb2.PodSandboxStatus(network=api_pb2.PodSandboxNetworkStatus(ip="10.0.0.2"))
    ).SerializeToString()
    answer = await node.call("PodSandboxStatus", api_pb2.PodSandboxStatusRequest())
    assert api_pb2.PodSandboxStatusResponse.FromString(answer).status.network.ip == "10.0.0.9"


async def test_a_stream_is_corrected_message_by_message(node):
    async def forward(raw: bytes):
        assert raw == b""
        for name in ("one", "two"):
            event = api_pb2.ContainerEventResponse(container_id=name)
            event.pod_sandbox_status.network.ip = "10.0.0.2"
            yield event.SerializeToString()

    [override] = node.methods.stream_overrides().values()
    found = [
        api_pb2.ContainerEventResponse.FromString(raw)
        async for raw in override(StreamCall(b"", forward))
    ]
    assert [event.container_id for event in found] == ["one", "two"]
    assert {event.pod_sandbox_status.network.ip for event in found} == {"10.0.0.9"}


def test_the_methods_need_no_grpc():
    """Their own modules name it nowhere; import-linter watches the rest."""
    for name in ("containers", "sandboxes", "execs", "leaving", "methods"):
        module = sys.modules[f"crishim.server.cri.{name}"]
        assert not hasattr(module, "grpc"), name
