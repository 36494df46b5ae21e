"""The node's half of the benchmarks: pods, containers, runc by hand, what the workload saw.

Runs inside a node, with crishim's own stubs, and drives CRI over open channels.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from crishim._proto.crishim.v1 import crishim_pb2, crishim_pb2_grpc
from crishim._proto.runtime.v1 import api_pb2, api_pb2_grpc

IMAGE = "crishim.test/workload:1"
SCRATCH = Path("/var/lib/crishim/bench")
"""On the disk, like the store."""

_SOCKETS = {"crishim": "/run/crishim/crishim.sock", "containerd": "/run/containerd/containerd.sock"}
_BUNDLES = Path("/run/containerd/io.containerd.runtime.v2.task/k8s.io")
_CRIU_CONFIG = SCRATCH / "skip.conf"

QUICK = {"CRIU_CONFIG_FILE": str(_CRIU_CONFIG)}
"""CRIU without its own network lock, which costs a small process more than its dump."""

PODMAN_NAME = "bench"

CHANNELS = {name: grpc.insecure_channel(f"unix:{path}") for name, path in _SOCKETS.items()}
CRI = api_pb2_grpc.RuntimeServiceStub(CHANNELS["crishim"])
CONTAINERD = api_pb2_grpc.RuntimeServiceStub(CHANNELS["containerd"])
CRISHIM = crishim_pb2_grpc.CheckpointRestoreStub(CHANNELS["crishim"])


def timed_ms(work: Callable[[], object]) -> float:
    """Return how long a call took."""
    begin = time.perf_counter()
    work()
    return (time.perf_counter() - begin) * 1e3


def median(values: list[float]) -> float:
    return round(statistics.median(values), 1)


def settle() -> None:
    """Let the disk come to rest: nobody is to pay for another's dirty pages."""
    os.sync()
    time.sleep(0.1)


def fresh(name: str) -> Path:
    """Return an empty directory on the disk."""
    path = SCRATCH / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def fsync_all(directory: Path) -> None:
    """Make the files of a directory durable, and itself."""
    for path in (*directory.iterdir(), directory):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


@dataclass
class Pod:
    """A sandbox; made with `Pod.run`."""

    id: str
    config: api_pb2.PodSandboxConfig

    @classmethod
    def run(cls) -> Pod:
        name = f"bench-{uuid.uuid4().hex[:8]}"
        config = api_pb2.PodSandboxConfig(
            metadata=api_pb2.PodSandboxMetadata(name=name, namespace="default", uid=name),
            log_directory=f"/var/log/pods/{name}",
            linux=api_pb2.LinuxPodSandboxConfig(),
        )
        answer = CRI.RunPodSandbox(api_pb2.RunPodSandboxRequest(config=config))
        return cls(answer.pod_sandbox_id, config)

    @property
    def address(self) -> str:
        request = api_pb2.PodSandboxStatusRequest(pod_sandbox_id=self.id)
        return CRI.PodSandboxStatus(request).status.network.ip

    def create(self, *arguments: str, image: str = IMAGE) -> str:
        """Create a container of the workload, or of a checkpoint; return its id."""
        config = api_pb2.ContainerConfig(
            metadata=api_pb2.ContainerMetadata(name=f"c-{uuid.uuid4().hex[:6]}"),
            image=api_pb2.ImageSpec(image=image),
            args=["/workload", *arguments] if arguments else [],
            log_path=f"{uuid.uuid4().hex[:8]}.log",
            linux=api_pb2.LinuxContainerConfig(),
        )
        # As the kubelet has it: a process namespace of its own.
        config.linux.security_context.namespace_options.pid = api_pb2.CONTAINER
        request = api_pb2.CreateContainerRequest(
            pod_sandbox_id=self.id, config=config, sandbox_config=self.config
        )
        return CRI.CreateContainer(request).container_id

    def start(self, *arguments: str) -> str:
        """Start the workload and wait until it answers; return its id."""
        container = self.create(*arguments)
        start(container)
        wait_answer(self.address)
        return container

    def remove(self) -> None:
        CRI.StopPodSandbox(api_pb2.StopPodSandboxRequest(pod_sandbox_id=self.id))
        CRI.RemovePodSandbox(api_pb2.RemovePodSandboxRequest(pod_sandbox_id=self.id))


class Cleanup(contextlib.ExitStack):
    """Removes what a benchmark made, whatever becomes of it."""

    def pod(self) -> Pod:
        pod = Pod.run()
        self.callback(pod.remove)
        return pod


def stop_into(archive: Path, container: str) -> list[crishim_pb2.CheckpointResult]:
    """Checkpoint a container and end it; return crishim's result as a list of one."""
    request = crishim_pb2.CheckpointContainerRequest(
        container_id=container, output_path=str(archive), stop=True
    )
    return [e.result for e in CRISHIM.CheckpointContainer(request) if e.HasField("result")]


def move(archive: Path, source: str, target: str) -> dict[str, float]:
    """Checkpoint a container and restore it into a created one; return the phases' ms.

    The restore is asked for first, so that all is ready for it when the dump begins.
    """
    restoring = CRISHIM.RestoreContainer(
        crishim_pb2.RestoreContainerRequest(
            container_id=target, source_container_id=source, start=True
        )
    )
    for event in restoring:
        if event.phase.name == "wait":
            break
    results = {"dump": stop_into(archive, source)}
    results["restore"] = [e.result for e in restoring if e.HasField("result")]
    return {
        f"{name} {phase.name}": phase.duration_us / 1e3
        for name, (result,) in results.items()
        for phase in result.statistics.phases
    }


def podman_run(port: int, *arguments: str) -> None:
    """Start the workload under Podman, in the node's network, and wait until it answers."""
    options = ["--detach", "--name", PODMAN_NAME, "--network", "host", "--ulimit", "host"]
    options += ["--env", "GODEBUG=multipathtcp=0"]  # CRIU refuses MPTCP sockets
    call(["podman", "run", *options, IMAGE, "/workload", *arguments, "-port", str(port)])
    wait_answer("127.0.0.1", port)


def podman_checkpoint(archive: Path, *flags: str) -> None:
    options = ["--tcp-established", "--file-locks", "--compress", "none", *flags]
    call(["podman", "container", "checkpoint", *options, "--export", str(archive), PODMAN_NAME])


def podman_remove() -> None:
    call(["podman", "rm", "--force", "--time", "0", "--ignore", PODMAN_NAME])


def start(container: str) -> None:
    CRI.StartContainer(api_pb2.StartContainerRequest(container_id=container))


def remove(container: str) -> None:
    CRI.StopContainer(api_pb2.StopContainerRequest(container_id=container, timeout=0))
    CRI.RemoveContainer(api_pb2.RemoveContainerRequest(container_id=container))


def ask(address: str, line: str, port: int = 9000) -> str:
    """Send one line to the workload; the connection ends with it."""
    with socket.create_connection((address, port), timeout=10) as connection:
        connection.sendall(line.encode() + b"\n")
        return connection.makefile().readline().strip()


def wait_answer(address: str, port: int = 9000) -> None:
    """Wait until the workload answers: its memory is filled then."""
    end = time.monotonic() + 60
    while True:
        try:
            ask(address, "sum", port)
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def standstill_ms(address: str, port: int = 9000) -> float:
    """Return the longest standstill that the workload has seen since its last `reset`."""
    time.sleep(0.02)
    return int(ask(address, "gap", port).split()[1]) / 1e3


def call(argv: list[str], env: dict[str, str] | None = None) -> None:
    """Run a program; show what it says only if it fails."""
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(env or {})},
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"{' '.join(argv)}: {done.returncode}\n{done.stdout[-3000:]}")


class Runc:
    """runc by hand.

    Args: root: its state directory; by default that of containerd's shims.
    """

    _OPTIONS = ("--tcp-established", "--file-locks", "--ext-unix-sk", "--manage-cgroups-mode")

    def __init__(self, root: str = "/run/containerd/runc/k8s.io") -> None:
        self._runc = ["runc", "--root", root]

    def call(self, *words: str, env: dict[str, str] | None = None) -> None:
        call([*self._runc, *words], env)

    def checkpoint(self, container: str, directory: Path, *flags: str, **env: str) -> None:
        """Dump into a directory, with the options that crishim gives."""
        images = ("--image-path", str(directory), "--work-path", str(directory.parent))
        options = (*images, *self._OPTIONS, "ignore", "--link-remap")
        self.call("checkpoint", *options, *flags, container, env=env)

    def restore(self, container: str, directory: Path, bundle: Path, **env: str) -> None:
        """Restore from such a directory; returns when it runs."""
        work = directory.parent
        images = ("--image-path", str(directory), "--work-path", str(work))
        options = (*images, *self._OPTIONS, "ignore", "--bundle", str(bundle), "--detach")
        done = subprocess.run(
            [*self._runc, "restore", *options, container],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # the container keeps it: it cannot be a pipe
            stderr=subprocess.DEVNULL,
            env={**os.environ, **env},
            check=False,
        )
        if done.returncode != 0:
            log = (work / "restore.log").read_text(errors="replace")
            sys.exit(f"runc restore: {done.returncode}\n{log[-3000:]}")


class Bundle:
    """The workload under runc alone, in a pod's namespaces: what others are compared with."""

    name = "bench-raw"

    def __init__(self, pod: Pod, *arguments: str, port: int) -> None:
        self.runc = Runc("/run/bench-runc")
        self.directory = fresh("bundle")
        SCRATCH.mkdir(parents=True, exist_ok=True)
        _CRIU_CONFIG.write_text("network-lock skip\n")
        model = pod.create("-port", str(port + 1))
        start(model)
        config: dict[str, Any] = json.loads((_BUNDLES / model / "config.json").read_text())
        rootfs = self.directory / "rootfs"
        shutil.copytree(_BUNDLES / model / "rootfs", rootfs, symlinks=True)
        remove(model)
        config["process"]["args"] = ["/workload", "-port", str(port), *arguments]
        config["root"]["path"] = str(rootfs)
        config["linux"]["cgroupsPath"] = "/bench/raw"
        (self.directory / "config.json").write_text(json.dumps(config))
        words = ["run", "--detach", "--bundle", str(self.directory), self.name]
        null = subprocess.DEVNULL  # CRIU knows no files of the node
        subprocess.run(
            ["runc", "--root", "/run/bench-runc", *words],
            stdin=null,
            stdout=null,
            stderr=null,
            check=True,
        )
        wait_answer(pod.address, port)

    def remove(self) -> None:
        self.runc.call("delete", "--force", self.name)
