"""A hundred checkpoints asked for at the same moment, on a node that has other work to do."""

from __future__ import annotations

import json
import subprocess
import threading

from tests.e2e import nodes

CONTAINERS = 8
CALLS = 100
DIRECTORY = "/var/lib/crishim-crowd"

# Run on the node: starts CALLS calls at once over the containers named and prints how each ended. A
# call for a container that is being written already is told so (ABORTED) and asks again.
ALL_AT_ONCE = """
import json, os, sys, time
from concurrent.futures import ThreadPoolExecutor
import grpc
from crishim._proto.crishim.v1 import crishim_pb2, crishim_pb2_grpc
directory, calls, *containers = sys.argv[1:]
channel = grpc.insecure_channel("unix:/run/crishim/crishim.sock",
                                options=[("grpc.default_authority", "localhost")])
stub = crishim_pb2_grpc.CheckpointRestoreStub(channel)
def call(number):
    path = f"{directory}/{number}.tar"
    request = crishim_pb2.CheckpointContainerRequest(
        container_id=containers[number % len(containers)], output_path=path, timeout_s=150)
    seen = []
    while True:
        try:
            for event in stub.CheckpointContainer(request):
                seen.append(event.phase.name)
            os.remove(path)
            return "OK", seen
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.ABORTED:
                return f"{error.code().name}: {error.details()}", seen
            seen.append("ABORTED")
            time.sleep(0.1)
with ThreadPoolExecutor(int(calls)) as pool:
    print(json.dumps(list(pool.map(call, range(int(calls))))))
"""


class Probe(threading.Thread):
    """An exec probe every second, as a kubelet has it: a sync exec with a deadline of its own."""

    def __init__(self, node: nodes.Node, container: str) -> None:
        super().__init__(daemon=True)
        self.stop = threading.Event()
        self.runs = 0
        self.failures: list[str] = []
        self._argv = [*(str(nodes.LAB), "exec", node.name, "--", "crictl", "exec", "--sync")]
        self._argv += ["--timeout", "10", container, "/workload", "-help"]

    def run(self) -> None:
        while not self.stop.wait(1):
            done = subprocess.run(self._argv, capture_output=True, text=True, check=False)
            self.runs += 1
            if done.returncode != 0:
                self.failures.append(done.stdout + done.stderr)


def test_a_hundred_checkpoints_at_once(node):
    """All of them are written, a few at a time, while probes and a client see no error."""
    pods = [node.pod() for _ in range(CONTAINERS)]
    containers = [pod.run() for pod in pods]
    client = nodes.Client(pods[0].address)
    client.wait_answers(10)
    probe = Probe(node, containers[0])
    probe.start()
    node.exec("mkdir", "-p", DIRECTORY)
    try:
        argv = ("/opt/crishim/bin/python", "-c", ALL_AT_ONCE, DIRECTORY, str(CALLS), *containers)
        ended = json.loads(node.exec(*argv, timeout_s=170))
        left = node.sh(f"ls -A {DIRECTORY}")
    finally:
        probe.stop.set()
        probe.join(timeout=60)
        node.exec("rm", "-rf", DIRECTORY)
    assert [how for how, _ in ended] == ["OK"] * CALLS
    assert any("waiting" in seen for _, seen in ended), "none had to wait for its turn"
    assert left == ""
    assert probe.runs > 0
    assert probe.failures == []
    client.wait_answers(20)
    report = client.close()
    assert report["errors"] == []
    assert report["wire"] == []
