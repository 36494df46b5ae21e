"""crishim or containerd killed in the middle: the client sees no error, and nothing is left."""

import json
import random

import pytest

from tests.e2e import nodes
from tests.e2e.moves import ARCHIVE, assert_unharmed, checkpoint, eventually

MEMORY_MB = "200"
# Run on the node: starts ARGV, lets it come to a phase (or not), waits, kills the daemon SERVICE;
# "crishim+guardian" kills the guardians of its dumps at once with it.
KILL_IN_PHASE = """
import glob, os, signal, subprocess, sys, time
service, phase, delay_s, *argv = sys.argv[1:]
service, _, guardian = service.partition("+")
status = subprocess.run(["service", service, "status"], capture_output=True, text=True).stdout
words = status.split()
pid = int(words[words.index("pid") + 1].strip(","))
work = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
seen = ""
if phase:
    for line in work.stdout:
        seen += line
        if phase in line.split():
            break
time.sleep(float(delay_s))
for path in glob.glob("/proc/[0-9]*/cmdline"):
    try:
        words = open(path, "rb").read().split(bytes(1))
    except OSError:
        continue
    if guardian and any(word.endswith(b"/guardian.py") for word in words):
        os.kill(int(path.split("/")[2]), signal.SIGKILL)
        seen += "GUARDIAN KILLED "
os.kill(pid, signal.SIGKILL)
seen += work.stdout.read()
print(work.wait(), seen)
"""


class Scene:
    """A workload with memory and a client on it, through crashes."""

    def __init__(self, node: nodes.Node) -> None:
        self.node = node
        self.pod = node.pod()
        self.container = self.pod.run("-memory-mb", MEMORY_MB)
        self.address = self.pod.address
        self.digest = nodes.ask(self.address, "sum")
        self.client = nodes.Client(self.address)
        self.client.wait_answers(30)

    def killed(self, *argv: str, service: str = "crishim", phase: str = "", delay_s: float = 0):
        """Kill a service while a command runs; return once it is back."""
        script = ("python3", "-c", KILL_IN_PHASE, service, phase, str(delay_s))
        said = self.node.exec(*script, *argv)
        eventually(self.answers)
        return said

    def answers(self) -> bool:
        try:
            self.node.crictl("version")
        except nodes.CommandFailed:
            return False
        return True

    def state(self, container: str) -> str:
        return json.loads(self.node.crictl("inspect", container))["status"]["state"]

    def has_archive(self) -> bool:
        return bool(self.node.sh(f"ls {ARCHIVE} 2>/dev/null || true"))

    def restore(self) -> str:
        """Restore the archive in a new pod."""
        self.pod.remove()
        self.pod = self.node.pod()
        self.container = self.pod.create(ARCHIVE)
        self.node.crictl("start", self.container)
        return self.container

    def end(self) -> None:
        """The client goes on, and the memory is what it was."""
        self.client.wait_answers(50)
        assert nodes.ask(self.address, "sum") == self.digest
        assert_unharmed(self.client.close())
        self.node.exec("rm", "-f", ARCHIVE)

    def end_of_dump(self, *, stop: bool) -> None:
        """Whatever became of the dump, the container goes on, here or restored."""
        if stop and self.has_archive():
            eventually(lambda: self.state(self.container) == "CONTAINER_EXITED")
            self.restore()
            return
        self.client.wait_answers(50)
        assert self.state(self.container) == "CONTAINER_RUNNING"
        self.node.exec("rm", "-f", ARCHIVE)
        checkpoint(self.node, self.container)


@pytest.fixture
def scene(node):
    """A workload, its client, and both services running afterwards."""
    scene = Scene(node)
    yield scene
    node.exec("service", "containerd", "start")
    node.exec("service", "crishim", "start")


def dump(scene: Scene, stop: bool) -> list[str]:
    argv = ["crishim", "checkpoint", scene.container, "--output", ARCHIVE]
    return [*argv, "--stop"] if stop else argv


@pytest.mark.parametrize("stop", [False, True], ids=["leave-running", "stop"])
@pytest.mark.parametrize("phase", ["blocks", "pause", "memory", "pack"])
def test_crishim_killed_in_a_phase(scene, phase, stop):
    """The guardian lets the container go on, or, once the archive is whole, it can be restored."""
    scene.killed(*dump(scene, stop), phase=phase)
    scene.end_of_dump(stop=stop)
    scene.end()


@pytest.mark.parametrize("phase", ["memory", "pack"])
def test_crishim_and_its_guardian_killed_in_a_stop(scene, phase):
    """Nobody is left to lift the hold: the next daemon does, or the pod is cut off for ever."""
    said = scene.killed(*dump(scene, True), service="crishim+guardian", phase=phase)
    assert "GUARDIAN KILLED" in said
    scene.end_of_dump(stop=True)
    scene.end()


@pytest.mark.parametrize("stop", [False, True], ids=["leave-running", "stop"])
def test_crishim_killed_at_any_moment(scene, stop):
    """Again and again, at moments that nobody chose."""
    chance = random.Random()
    for _ in range(4):
        delay_s = chance.uniform(0, 0.8)
        print(f"killed {delay_s:.3f} s after the phase of the layer had begun")
        scene.killed(*dump(scene, stop), phase="layer", delay_s=delay_s)
        scene.end_of_dump(stop=stop)
        scene.client.wait_answers(20)
        scene.node.exec("rm", "-f", ARCHIVE)
    scene.end()


@pytest.mark.parametrize("stop", [False, True], ids=["leave-running", "stop"])
def test_containerd_killed_in_a_dump(scene, stop):
    """The dump comes to an end, good or bad; the container and its client go on."""
    scene.killed(*dump(scene, stop), service="containerd", phase="memory")
    scene.end_of_dump(stop=stop)
    scene.end()


@pytest.mark.parametrize("service", ["crishim", "containerd"])
def test_killed_between_create_and_start(scene, service):
    """The container that was created from a checkpoint is restored by its start all the same."""
    checkpoint(scene.node, scene.container, "--stop")
    scene.pod.remove()
    scene.pod = scene.node.pod()
    created = scene.pod.create(ARCHIVE)
    scene.killed("true", service=service)
    scene.node.crictl("start", created)
    assert scene.state(created) == "CONTAINER_RUNNING"
    scene.end()


@pytest.mark.parametrize(
    ("service", "delay_s"),
    [
        ("crishim", 0.03),
        ("crishim", 0.08),
        ("crishim", 0.15),
        ("crishim", 0.25),
        ("containerd", 0.08),
        ("containerd", 0.16),
        ("containerd", 0.24),
    ],
)
def test_killed_in_a_restore(scene, service, delay_s):
    """It was restored, or the next start restores it; never a cold start, never a reset.

    containerd may leave files of the task behind, and cannot start that container any more then: a
    kubelet makes another one in the same pod.
    """
    checkpoint(scene.node, scene.container, "--stop")
    scene.pod.remove()
    scene.pod = scene.node.pod()
    created = scene.pod.create(ARCHIVE)
    scene.killed("crictl", "start", created, service=service, delay_s=delay_s)
    if scene.state(created) != "CONTAINER_RUNNING" and service == "containerd":
        scene.node.crictl("rm", created)
        scene.node.crictl("start", scene.pod.create(ARCHIVE))
    elif scene.state(created) == "CONTAINER_CREATED":
        scene.node.crictl("start", created)
    elif scene.state(created) == "CONTAINER_EXITED":
        scene.restore()
    scene.end()
