"""The relay on a real node: containerd killed under load, start order, a clean stop."""

import contextlib
import json
import subprocess

import pytest

from tests.e2e import nodes
from tests.e2e.waiting import eventually

PROBE = ("/opt/crishim/bin/python", "-B", "/src/tests/e2e/relay_probe.py")
SOCKET = "/run/crishim/crishim.sock"
WORKS_AGAIN_S = 1.0
"""The promise: a second after containerd does, calls through crishim work."""


class Probe:
    """`relay_probe.py` on a node."""

    def __init__(self, node: nodes.Node, mode: str) -> None:
        argv = [str(nodes.LAB), "exec", node.name, "--", *PROBE, mode]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)

    def line(self) -> dict:
        assert self.process.stdout is not None
        text = self.process.stdout.readline()
        assert text, "the probe ended early"
        return json.loads(text)

    def until(self, key: str) -> dict:
        """Read to the next line that has `key`."""
        while key not in (line := self.line()):
            pass
        return line


@contextlib.contextmanager
def probing(node: nodes.Node, mode: str):
    probe = Probe(node, mode)
    with probe.process:
        try:
            yield probe
        finally:
            probe.process.terminate()


@pytest.fixture
def services(node: nodes.Node):
    """The node, with both services running after the test as before."""
    yield node
    node.exec("service", "containerd", "start")
    node.exec("service", "crishim", "start")


def failure(node: nodes.Node, *words: str) -> str:
    with pytest.raises(nodes.CommandFailed) as caught:
        node.exec(*words)
    return caught.value.stderr


def test_containerd_killed_under_load(services: nodes.Node) -> None:
    container = services.pod().run()
    with probing(services, "restart") as probe:
        probe.until("ready")
        services.exec("service", "containerd", "kill")
        seen = probe.line()
    direct, through = seen["direct"], seen["through"]
    assert set(through["codes"]) == set(direct["codes"]) == {"UNAVAILABLE"}
    lag_s = through["last_failure_s"] - direct["last_failure_s"]
    print(f"calls through crishim work {lag_s * 1e3:+.0f} ms after calls straight at containerd")
    assert lag_s < WORKS_AGAIN_S
    assert services.crictl("ps", "-q").split() == [container]


def test_event_stream_ends_with_containerd_and_is_opened_again(services: nodes.Node) -> None:
    with probing(services, "events") as probe:
        probe.until("open")
        events_reach(services, probe)
        services.exec("service", "containerd", "kill")
        assert probe.until("ended")["ended"] == "UNAVAILABLE"
        probe.until("open")
        events_reach(services, probe)


def events_reach(node: nodes.Node, probe: Probe) -> None:
    """Make a pod's life of events and see one of them."""
    node.pod().remove()
    probe.until("event")


def test_crishim_waits_for_containerd(services: nodes.Node) -> None:
    services.exec("service", "crishim", "stop")
    services.exec("service", "containerd", "crash")
    # Returns when crishim has said READY: it serves without containerd.
    services.exec("service", "crishim", "start")
    error = failure(services, "crictl", "version")
    assert "containerd does not answer at /run/containerd/containerd.sock" in error
    log = services.exec("tail", "-n", "20", "/var/log/crishim.log")
    assert "containerd does not answer at /run/containerd/containerd.sock; waiting for it" in log
    services.exec("service", "containerd", "start")
    eventually(lambda: works(services))


def works(node: nodes.Node) -> bool:
    try:
        return "RuntimeName:  containerd" in node.crictl("version")
    except nodes.CommandFailed:
        return False


def test_second_instance_is_refused(services: nodes.Node) -> None:
    before = services.exec("stat", "-c", "%i %a", SOCKET)
    with pytest.raises(nodes.CommandFailed) as caught:
        services.exec("crishim", "serve")
    assert caught.value.status == 3
    assert "another crishim is running here (pid " in caught.value.stderr
    assert services.exec("stat", "-c", "%i %a", SOCKET) == before
    assert before.split()[1] == "600"
    services.crictl("version")


def test_sigterm_lets_a_running_exec_end(services: nodes.Node) -> None:
    pod = services.pod()
    container = pod.create("docker.io/library/busybox:latest", "sleep", "600")
    services.crictl("start", container)
    argv = [str(nodes.LAB), "exec", services.name, "--", "crictl", "exec", "-s", container]
    script = "touch /begun; sleep 2; echo done"
    with subprocess.Popen(
        [*argv, "sh", "-c", script], stdout=subprocess.PIPE, text=True
    ) as running:
        eventually(lambda: services.crictl("exec", "-s", container, "ls", "/").count("begun"))
        services.exec("service", "crishim", "stop")
        output, _ = running.communicate(timeout=30)
    assert output.split() == ["done"]
    assert "No such file" in failure(services, "stat", SOCKET)
    services.exec("service", "crishim", "start")
    assert services.crictl("ps", "-q").split() == [container]


def test_sigterm_in_the_middle_of_a_dump_lets_it_end(services: nodes.Node) -> None:
    container, archive = services.pod().run("-memory-mb", "300"), "/var/lib/stopped.tar"
    argv = [str(nodes.LAB), "exec", services.name, "--"]
    argv += ["crishim", "checkpoint", container, "--json", "--output", archive]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as dump:
        assert dump.stdout is not None
        while json.loads(dump.stdout.readline())["phase"]["name"] != "pause":
            pass
        services.exec("service", "crishim", "stop")
        last = json.loads(dump.stdout.read().splitlines()[-1])
        assert dump.wait(timeout=10) == 0
    assert last["result"]["path"] == archive
    services.exec("rm", archive)
    services.exec("service", "crishim", "start")
    assert services.crictl("ps", "-q").split() == [container]


def test_killed_crishim_comes_back_and_containers_go_on(services: nodes.Node) -> None:
    pod = services.pod()
    container = pod.run()
    before = int(nodes.ask(pod.address, "count 1").split()[2])
    services.exec("service", "crishim", "kill")
    services.exec("service", "crishim", "start")  # waits until it is ready
    assert services.crictl("ps", "-q").split() == [container]
    assert int(nodes.ask(pod.address, "count 2").split()[2]) == before + 1
