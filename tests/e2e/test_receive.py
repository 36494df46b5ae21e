"""A restore that waits for its checkpoint, and what goes wrong on the way of either.

Whatever happens, one live copy is left, its client sees nothing, and the container that was to
receive it never starts without its state.
"""

import json
import signal
import subprocess

import pytest

from tests.e2e import nodes
from tests.e2e.moves import ARCHIVE, assert_unharmed, checkpoint, eventually, move
from tests.e2e.test_refusals import small_disk

OWN_PIDS = {"security_context": {"namespace_options": {"pid": 1}}}
RECEIVE = """
import sys, grpc
from crishim._proto.crishim.v1 import crishim_pb2, crishim_pb2_grpc
container, source, timeout_s = sys.argv[1:]
options = [("grpc.default_authority", "localhost")]
channel = grpc.insecure_channel("unix:/run/crishim/crishim.sock", options)
request = crishim_pb2.RestoreContainerRequest(
    container_id=container, source_container_id=source, start=True, timeout_s=int(timeout_s))
try:
    for event in crishim_pb2_grpc.CheckpointRestoreStub(channel).RestoreContainer(request):
        print(event.phase.name or f"restored {event.result.addresses[0]}", flush=True)
except grpc.RpcError as error:
    print("failed", error.code().name, error.details(), flush=True)
"""


class Receiving:
    """A call of RestoreContainer that waits for the next checkpoint of `source`."""

    def __init__(self, node: nodes.Node, container: str, source: str, timeout_s: int = 0) -> None:
        words = ("/opt/crishim/bin/python", "-c", RECEIVE, container, source, str(timeout_s))
        argv = [str(nodes.LAB), "exec", node.name, "--", *words]
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)

    def waits(self) -> None:
        """Return once everything is ready for the checkpoint."""
        seen = ""
        for line in self._process.stdout:
            seen += line
            if line == "wait\n":
                return
        raise AssertionError(seen)

    def cancel(self) -> None:
        """End the caller as Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)
        self.outcome()

    def outcome(self) -> str:
        """Return the last line, which says what became of the restore."""
        said = self._process.stdout.read()
        self._process.wait(30)
        self._process.stdout.close()
        return said.splitlines()[-1] if said else ""


class Scene:
    """A workload with a client on it, and a container in another pod that waits for it."""

    def __init__(self, node: nodes.Node) -> None:
        self.node = node
        self.pod = node.pod()
        self.source = self.pod.run("-memory-mb", "50")
        self.address = self.pod.address
        self.client = nodes.Client(self.address)
        self.client.wait_answers(20)
        self.target = node.pod().create(nodes.IMAGE, "/workload", "-memory-mb", "50")
        self.receiving = Receiving(node, self.target, self.source)
        self.receiving.waits()

    def state(self, container: str) -> str:
        return json.loads(self.node.crictl("inspect", container))["status"]["state"]

    def source_goes_on(self) -> None:
        """The client has noticed nothing; the target is no cold copy; the next move works."""
        self.client.wait_answers(50)
        assert self.state(self.source) == "CONTAINER_RUNNING"
        assert self.state(self.target) == "CONTAINER_CREATED"
        self.target_never_starts()
        move(self.pod, self.source)
        self.client.wait_answers(50)
        assert_unharmed(self.client.close())

    def target_never_starts(self) -> None:
        with pytest.raises(nodes.CommandFailed):
            self.node.crictl("start", self.target)
        assert self.state(self.target) != "CONTAINER_RUNNING"


@pytest.fixture
def scene(node):
    return Scene(node)


def test_the_checkpoint_is_restored_as_soon_as_it_is_there(scene):
    """Two calls, one move: the source has ended, its connections go on in the target."""
    checkpoint(scene.node, scene.source, "--stop")
    assert scene.receiving.outcome() == f"restored {scene.address}"
    scene.client.wait_answers(50)
    assert scene.state(scene.target) == "CONTAINER_RUNNING"
    assert scene.state(scene.source) == "CONTAINER_EXITED"
    assert_unharmed(scene.client.close())
    scene.node.exec("rm", ARCHIVE)


def test_crishim_killed_while_it_waits(scene):
    """Nothing was changed yet but the target, which nobody can start any more."""
    scene.node.exec("service", "crishim", "kill")
    assert scene.receiving.outcome().startswith("failed UNAVAILABLE")
    eventually(lambda: answers(scene.node))
    scene.source_goes_on()


def test_cancelled_while_it_waits(scene):
    """The dump that comes then is an ordinary one."""
    scene.receiving.cancel()
    scene.source_goes_on()


def test_a_dump_that_is_refused(scene):
    with pytest.raises(nodes.CommandFailed):
        checkpoint(scene.node, scene.source, "--stop", archive="/var/lib/crishim/none/x.tar")
    assert "the checkpoint to be restored has failed" in scene.receiving.outcome()
    scene.source_goes_on()


def test_a_dump_that_fails_in_the_pause(scene):
    """The target has the address already, behind its hold, and gives it back."""
    with small_disk(scene.node, "/var/lib/crishim/dumps", "size=40k"):
        with pytest.raises(nodes.CommandFailed) as failed:
            checkpoint(scene.node, scene.source, "--stop")
        assert "runc checkpoint failed" in failed.value.stderr
        assert "the checkpoint to be restored has failed" in scene.receiving.outcome()
    scene.source_goes_on()


def test_refused_before_anything_is_touched(node):
    """Each for its own reason; the container can be started as any other afterwards."""
    source = node.pod().run(linux=OWN_PIDS)
    target = node.pod().create(nodes.IMAGE, "/workload")
    said = Receiving(node, target, source).outcome()
    assert "process id 1 of the checkpoint is taken in the pod's pid namespace" in said
    assert Receiving(node, target, "0123456789ab").outcome().startswith("failed NOT_FOUND")
    node.exec("crishim", "checkpoint", source, "--stop", "--name", "first")
    assert "is not running" in Receiving(node, target, source).outcome()
    node.crictl("start", target)
    node.exec("crishim", "rm", "--force", "first")


def test_nobody_takes_the_checkpoint(node):
    """The wait is part of the call's time."""
    source = node.pod().run()
    target = node.pod().create(nodes.IMAGE, "/workload")
    said = Receiving(node, target, source, timeout_s=2).outcome()
    assert said == f"failed DEADLINE_EXCEEDED nobody has stopped container {source[:13]} in time"


def answers(node: nodes.Node) -> bool:
    """Whether the daemon serves, with containerd behind it."""
    try:
        node.crictl("version")
    except nodes.CommandFailed:
        return False
    return True
