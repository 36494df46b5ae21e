"""A program for a node's Python: makes calls of CRI and crishim.v1, and strikes at a chosen step.

It reads one JSON object per line and answers with one. What it does to the node in the middle of a
call (kill, cancel, delete) it does itself, in the same process that sees the call's progress:
starting a program takes longer than many a step. `soak/` uses it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import grpc

from crishim._proto.crishim.v1 import crishim_pb2, crishim_pb2_grpc
from crishim._proto.runtime.v1 import api_pb2, api_pb2_grpc
from tests.e2e import inventory

SOCKET = "unix:/run/crishim/crishim.sock"
OPTIONS = (
    ("grpc.default_authority", "localhost"),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
)
CALL_S = 60.0
BACK_S = 30.0
POINTS = Path("/run/failpoints")


def victims(what: str) -> list[int]:
    """Return the process ids of the guardian, the daemon or containerd."""
    found = []
    for pid, process in inventory.processes().items():
        words = process.line.split(" ")
        if (
            (what == "daemon" and process.is_daemon)
            or (what == "guardian" and any(word.endswith("/guardian.py") for word in words))
            or (what == "containerd" and words[0].rpartition("/")[2] == "containerd")
        ):
            found.append(pid)
    return found


class Fault:
    """Something that happens once in a call: at a step or point, or after a time.

    Args:
        what: words joined by "+", of guardian, daemon, containerd, cancel, container, pod; "none".
        phase: the step with which it begins, as the call tells of it; "" for the begin of the call.
        point: in place of it, where somebody stops (`failpoint/`) and is let go afterwards.
        delay_s: how long after the step has been seen.
        target: ids of the container and pod that are deleted.
    """

    def __init__(
        self, *, what: str, target: dict, phase: str = "", point: str = "", delay_s: float = 0
    ) -> None:
        self._words = [] if what == "none" else what.split("+")
        self._phase, self._point, self._delay_s = phase, point, delay_s
        self._target = target
        # Looked for beforehand, if it is there: it is not to gain time while it is looked for.
        services = [word for word in self._words if word in ("daemon", "containerd")]
        self._pids = {word: victims(word) for word in services}
        self._threads: list[threading.Thread] = []
        self._over = threading.Event()
        self._last = ""
        self._struck_in: str | None = None
        self.cancel: Callable[[], object] = lambda: None
        self.done: list[str] = []
        if point:
            os.mkfifo(POINTS / point)
            self._start(self._wait_at_point)

    def seen(self, phase: str) -> None:
        """A step has begun; "" is the call itself."""
        self._last = phase
        if self._words and phase == self._phase and not self._point and self._struck_in is None:
            self._struck_in = phase
            if self._delay_s:
                self._start(self._later)
            else:
                self._strike()

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work)
        self._threads.append(thread)
        thread.start()

    def _later(self) -> None:
        time.sleep(self._delay_s)
        self._struck_in = self._last
        self._strike()

    def _wait_at_point(self) -> None:
        """Strike once somebody has stopped at the point; let him go in any case."""
        reached = POINTS / f"{self._point}.reached"
        while not self._over.wait(0.002):
            if reached.exists():
                self._struck_in = self._point
                self._strike()
                break
        fifo = os.open(POINTS / self._point, os.O_RDWR | os.O_NONBLOCK)
        (POINTS / self._point).unlink()
        reached.unlink(missing_ok=True)
        os.write(fifo, b"go\n")
        os.close(fifo)

    def _strike(self) -> None:
        for word in self._words:
            if word == "cancel":
                self.cancel()
                self.done.append("cancelled")
            elif word in ("container", "pod"):
                self._start(lambda word=word: self._delete(word))
            else:
                self._kill(word)

    def _kill(self, word: str) -> None:
        for pid in self._pids.get(word) or victims(word):
            with contextlib.suppress(ProcessLookupError):
                handle = os.pidfd_open(pid)
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                select.select([handle], [], [], CALL_S)  # it has ended
                os.close(handle)
                self.done.append(f"killed {word}")

    def _delete(self, word: str) -> None:
        try:
            if word == "container":
                request = api_pb2.StopContainerRequest(
                    container_id=self._target["container"], timeout=1
                )
                RUNTIME.StopContainer(request, timeout=CALL_S)
                remove = api_pb2.RemoveContainerRequest(container_id=self._target["container"])
                RUNTIME.RemoveContainer(remove, timeout=CALL_S)
            else:
                remove_pod(self._target["pod"])
            self.done.append(f"deleted {word}")
        except grpc.RpcError as error:
            self.done.append(f"not deleted {word}: {error.code().name} {error.details()}")

    def wait(self) -> None:
        """Return once all that was begun has come to its end; the call is over."""
        self._over.set()
        while self._threads:
            self._threads.pop().join()

    def told(self) -> dict:
        """Say what was done, and in which step or at which point."""
        return {"done": self.done, "in": self._struck_in}


CHANNEL = grpc.insecure_channel(SOCKET, options=OPTIONS)
RUNTIME = api_pb2_grpc.RuntimeServiceStub(CHANNEL)
SERVICE = crishim_pb2_grpc.CheckpointRestoreStub(CHANNEL)


def follow(call, fault: Fault | None = None, on_phase=lambda _: None) -> dict:
    """Follow a call of crishim.v1 to its end; return its steps, and how it ended."""
    steps: list[str] = []
    outcome = {"steps": steps, "code": "OK", "details": ""}
    if fault is not None:
        fault.cancel = call.cancel
        fault.seen("")
    try:
        for event in call:
            if event.WhichOneof("event") == "phase":
                steps.append(event.phase.name)
                if fault is not None:
                    fault.seen(event.phase.name)
                on_phase(event.phase.name)
            else:
                outcome["warnings"] = list(getattr(event.result, "warnings", []))
    except grpc.RpcError as error:
        outcome |= {"code": error.code().name, "details": error.details()}
    return outcome


def checkpoint_request(words: dict) -> crishim_pb2.CheckpointContainerRequest:
    return crishim_pb2.CheckpointContainerRequest(
        container_id=words["container"],
        output_path=words["archive"],
        stop=words["operation"] != "dump",
        timeout_s=60,
    )


def operate(words: dict) -> dict:
    """Carry out a dump or a restore with a fault in it; wait until both are over."""
    fault = Fault(**words["fault"], target=words["target"])
    operation = words["operation"]
    began = time.monotonic()
    if operation in ("dump", "stop"):
        told = follow(SERVICE.CheckpointContainer(checkpoint_request(words), timeout=CALL_S), fault)
    elif operation == "receive":
        told = receive(words, fault)
    elif operation == "restore":
        request = crishim_pb2.RestoreContainerRequest(
            container_id=words["successor"], checkpoint=words["archive"], start=True, timeout_s=60
        )
        told = follow(SERVICE.RestoreContainer(request, timeout=CALL_S), fault)
    else:
        told = start(words["successor"], fault)
    took_s = time.monotonic() - began
    fault.wait()
    return {**told, "fault": fault.told(), "took_s": took_s}


def receive(words: dict, fault: Fault) -> dict:
    """Let a restore wait for a dump, and take the dump; the fault may strike in either."""
    request = crishim_pb2.RestoreContainerRequest(
        container_id=words["successor"],
        source_container_id=words["container"],
        start=True,
        timeout_s=60,
    )
    waits = threading.Event()
    restored: dict = {}
    call = SERVICE.RestoreContainer(request, timeout=CALL_S)

    fault.cancel = call.cancel

    def seen(phase: str) -> None:
        fault.seen(phase)
        if phase == "wait":
            waits.set()

    def restore() -> None:
        restored.update(follow(call, on_phase=seen))
        waits.set()

    thread = threading.Thread(target=restore)
    thread.start()
    waits.wait()
    told = follow(SERVICE.CheckpointContainer(checkpoint_request(words), timeout=CALL_S), fault)
    if told["code"] != "OK":
        call.cancel()
    thread.join()
    return {**told, "steps": told["steps"] + restored["steps"], "restore": restored}


def start(container: str, fault: Fault) -> dict:
    """Start a prepared container by CRI: a restore without progress."""
    call = RUNTIME.StartContainer.future(
        api_pb2.StartContainerRequest(container_id=container), timeout=CALL_S
    )
    fault.cancel = call.cancel
    fault.seen("")
    try:
        call.result()
    except (grpc.RpcError, grpc.FutureCancelledError) as error:
        code = error.code().name if isinstance(error, grpc.RpcError) else "CANCELLED"
        return {"steps": [], "code": code, "details": str(error)}
    return {"steps": [], "code": "OK", "details": ""}


def pod(words: dict) -> dict:
    """Run a sandbox; return its id."""
    request = api_pb2.RunPodSandboxRequest(config=words["config"])
    return {"pod": RUNTIME.RunPodSandbox(request, timeout=CALL_S).pod_sandbox_id}


def create(words: dict) -> dict:
    """Create a container in a sandbox and start it, if that is wanted; return its id."""
    request = api_pb2.CreateContainerRequest(
        pod_sandbox_id=words["pod"], config=words["config"], sandbox_config=words["pod_config"]
    )
    container = RUNTIME.CreateContainer(request, timeout=CALL_S).container_id
    if words["start"]:
        started = api_pb2.StartContainerRequest(container_id=container)
        RUNTIME.StartContainer(started, timeout=CALL_S)
    return {"container": container}


def address(words: dict) -> dict:
    """Return the pod's address."""
    request = api_pb2.PodSandboxStatusRequest(pod_sandbox_id=words["pod"])
    return {"address": RUNTIME.PodSandboxStatus(request, timeout=CALL_S).status.network.ip}


def remove_pod(identifier: str) -> None:
    """Stop and remove a sandbox, as whoever deletes a pod does."""
    stop = api_pb2.StopPodSandboxRequest(pod_sandbox_id=identifier)
    RUNTIME.StopPodSandbox(stop, timeout=CALL_S)
    remove = api_pb2.RemovePodSandboxRequest(pod_sandbox_id=identifier)
    RUNTIME.RemovePodSandbox(remove, timeout=CALL_S)


def remove(words: dict) -> dict:
    """Remove pods; return what was said of those that could not be."""
    failed = []
    for identifier in words["pods"]:
        try:
            remove_pod(identifier)
        except grpc.RpcError as error:
            failed.append(f"{identifier[:13]}: {error.code().name} {error.details()}")
    return {"failed": failed}


def back(_: dict) -> dict:
    """Wait until crishim and containerd answer; return how long that took."""
    began = time.monotonic()
    while time.monotonic() < began + BACK_S:
        with contextlib.suppress(grpc.RpcError):
            RUNTIME.Version(api_pb2.VersionRequest(), timeout=2)
            return {"back_s": time.monotonic() - began}
        time.sleep(0.02)
    return {"back_s": None}


def states(words: dict) -> dict:
    """Return the states of containers, "" for those that are not there, and the archive's."""
    request = api_pb2.ListContainersRequest()
    listed = RUNTIME.ListContainers(request, timeout=CALL_S).containers
    found = {
        item.id: api_pb2.ContainerState.Name(item.state).removeprefix("CONTAINER_")
        for item in listed
    }
    archive, whole = Path(words["archive"]), ""
    if archive.exists():
        try:
            inspect = crishim_pb2.InspectCheckpointRequest(checkpoint=str(archive))
            SERVICE.InspectCheckpoint(inspect, timeout=CALL_S)
            whole = "whole"
        except grpc.RpcError as error:
            whole = f"{error.code().name} {error.details()}"
    return {"states": [found.get(one, "") for one in words["containers"]], "archive": whole}


def pods(_: dict) -> dict:
    """Return all sandboxes."""
    request = api_pb2.ListPodSandboxRequest()
    return {"pods": [item.id for item in RUNTIME.ListPodSandbox(request, timeout=CALL_S).items]}


def ask(words: dict) -> dict:
    """Say a line to the workload from the node and return its answer."""
    import socket

    with socket.create_connection((words["address"], 9000), timeout=10) as connection:
        connection.sendall(words["line"].encode() + b"\n")
        return {"answer": connection.makefile().readline().strip()}


def unlink(words: dict) -> dict:
    """Remove a file that may be there."""
    Path(words["path"]).unlink(missing_ok=True)
    return {}


def stock(_: dict) -> dict:
    """Take stock of the node, for the leak guard."""
    return {"stock": inventory.take()}


def log_sizes(_: dict) -> dict:
    """Return how long the services' logs are."""
    return {"sizes": {str(path): path.stat().st_size for path in Path("/var/log").glob("*.log")}}


VERBS = {
    verb.__name__: verb
    for verb in (
        *(operate, pod, create, address, remove, back, states, pods, ask, unlink, stock),
        log_sizes,
    )
}


def main() -> None:
    """Answer until standard input ends."""
    for line in sys.stdin:
        words = json.loads(line)
        try:
            answer = VERBS[words.pop("verb")](words)
        except (grpc.RpcError, OSError) as error:
            said = error.details() if isinstance(error, grpc.RpcError) else str(error)
            code = error.code().name if isinstance(error, grpc.RpcError) else type(error).__name__
            answer = {"failed_as": code, "said": said}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
