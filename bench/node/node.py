"""A node to measure on: its sockets with channels that are open, pods and containers over them."""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc

from bench.node import workload
from crishim._proto.crishim.v1 import crishim_pb2, crishim_pb2_grpc
from crishim._proto.runtime.v1 import api_pb2, api_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_CRISHIM = "unix:///run/crishim/crishim.sock"
_CONTAINERD = "unix:///run/containerd/containerd.sock"


@dataclass(frozen=True, slots=True)
class Node:
    """Clients of one node; `open` makes one.

    Attributes:
        cri: CRI through crishim. containerd: CRI past it. crishim: crishim's own service.
    """

    cri: Any
    containerd: Any
    crishim: Any

    @classmethod
    @contextlib.contextmanager
    def open(cls) -> Iterator[Node]:
        """Open the channels for the block."""
        with grpc.insecure_channel(_CRISHIM) as own, grpc.insecure_channel(_CONTAINERD) as direct:
            yield cls(
                cri=blocking(api_pb2_grpc.RuntimeServiceStub, own),
                containerd=blocking(api_pb2_grpc.RuntimeServiceStub, direct),
                crishim=blocking(crishim_pb2_grpc.CheckpointRestoreStub, own),
            )

    def pod(self) -> Pod:
        """Run a sandbox; whoever asks removes it."""
        name = f"bench-{uuid.uuid4().hex[:8]}"
        config = api_pb2.PodSandboxConfig(
            metadata=api_pb2.PodSandboxMetadata(name=name, namespace="default", uid=name),
            log_directory=f"/var/log/pods/{name}",
            linux=api_pb2.LinuxPodSandboxConfig(),
        )
        answer = self.cri.RunPodSandbox(api_pb2.RunPodSandboxRequest(config=config))
        return Pod(self, answer.pod_sandbox_id, config)

    def start(self, container: str) -> None:
        """Start a created container, or restore it."""
        self.cri.StartContainer(api_pb2.StartContainerRequest(container_id=container))

    def remove(self, container: str) -> None:
        """End a container and remove it."""
        self.cri.StopContainer(api_pb2.StopContainerRequest(container_id=container, timeout=0))
        self.cri.RemoveContainer(api_pb2.RemoveContainerRequest(container_id=container))

    def checkpoint(self, container: str, archive: Path, *, direct: bool = False) -> None:
        """Checkpoint a container that goes on, over CRI.

        Args: direct: by containerd itself, past crishim.
        """
        stub = self.containerd if direct else self.cri
        stub.CheckpointContainer(
            api_pb2.CheckpointContainerRequest(container_id=container, location=str(archive))
        )

    def stop_into(self, archive: Path, container: str) -> Any:
        """Checkpoint a container and end it; return the CheckpointResult."""
        request = crishim_pb2.CheckpointContainerRequest(
            container_id=container, output_path=str(archive), stop=True
        )
        return _result(self.crishim.CheckpointContainer(request))

    def move(self, archive: Path, source: str, target: str) -> dict[str, float]:
        """Checkpoint a container and restore it into a created one; return the phases' ms.

        The restore is asked for first, so that all is ready for it when the dump begins.
        """
        restoring = self.crishim.RestoreContainer(
            crishim_pb2.RestoreContainerRequest(
                container_id=target, source_container_id=source, start=True
            )
        )
        for event in restoring:
            if event.phase.name == "wait":
                break
        results = {"dump": self.stop_into(archive, source)}
        results["restore"] = _result(restoring)
        return {
            f"{name} {phase.name}": phase.duration_us / 1e3
            for name, result in results.items()
            for phase in result.statistics.phases
        }


def blocking(stub: Any, channel: grpc.Channel) -> Any:
    """Return a stub over a blocking channel; the types that are generated are asyncio's."""
    return stub(channel)


def _result(events: Iterable[Any]) -> Any:
    """Follow a stream to its end; return the result that it has brought."""
    (result,) = [event.result for event in events if event.HasField("result")]
    return result


@dataclass(frozen=True, slots=True)
class Pod:
    """A sandbox on a node."""

    node: Node
    id: str
    config: api_pb2.PodSandboxConfig

    @property
    def address(self) -> str:
        """Its address now."""
        request = api_pb2.PodSandboxStatusRequest(pod_sandbox_id=self.id)
        return str(self.node.cri.PodSandboxStatus(request).status.network.ip)

    def create(self, *arguments: str, image: str = workload.IMAGE) -> str:
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
        return str(self.node.cri.CreateContainer(request).container_id)

    def start(self, *arguments: str) -> str:
        """Start the workload and wait until it answers; return its id."""
        container = self.create(*arguments)
        self.node.start(container)
        workload.wait_answer(self.address)
        return container

    def remove(self) -> None:
        """Stop it and remove it, with all that is in it."""
        self.node.cri.StopPodSandbox(api_pb2.StopPodSandboxRequest(pod_sandbox_id=self.id))
        self.node.cri.RemovePodSandbox(api_pb2.RemovePodSandboxRequest(pod_sandbox_id=self.id))


class Cleanup(contextlib.ExitStack):
    """Removes what a benchmark made, whatever becomes of it."""

    def pod(self, node: Node) -> Pod:
        """Run a sandbox that is removed in the end."""
        pod = node.pod()
        self.callback(pod.remove)
        return pod
