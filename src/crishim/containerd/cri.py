"""Ask containerd's CRI service about containers, sandboxes and images, in our own words.

The verbose `info` of containerd's answers is a JSON text whose keys
are its own; nobody else in the code reads them.

Source: containerd 1.7 to 2.4, internal/cri/server/{container_status,sandbox_status}.go.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crishim._proto.runtime.v1 import api_pb2, api_pb2_grpc
from crishim.containerd.service import Service
from crishim.errors import NotFound, Precondition
from crishim.ids import ContainerId, SandboxId, container_id, sandbox_id

if TYPE_CHECKING:
    import grpc.aio

_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A container as CRI and containerd see it.

    Attributes:
        status: CRI's own message, for callers that store or compare it.
        pid: of its first process; 0 when it does not run.
        spec: the OCI runtime spec.
        config: the CRI ContainerConfig as containerd's JSON.
    """

    id: ContainerId
    sandbox: SandboxId
    status: api_pb2.ContainerStatus
    pid: int
    snapshotter: str
    snapshot_key: str
    runtime_type: str
    spec: dict[str, Any]
    config: dict[str, Any]

    @property
    def running(self) -> bool:
        """Whether CRI reports it as running."""
        return bool(self.status.state == api_pb2.CONTAINER_RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """A pod sandbox: CRI's status and where its network namespace is bound.

    Attributes:
        netns: "" for a pod on the host's network.
        ready: whether CRI reports it as ready.
    """

    id: SandboxId
    status: api_pb2.PodSandboxStatus
    netns: str
    ready: bool
    host_network: bool


class Cri:
    """Calls to containerd's CRI service over a channel that somebody else owns.

    Each raises RuntimeRefused, and what it names itself.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._runtime = Service(api_pb2_grpc.RuntimeServiceStub(channel))
        self._images = Service(api_pb2_grpc.ImageServiceStub(channel))

    async def container(self, id_or_prefix: str) -> Container:
        """Return one container with all that containerd says of it.

        Raises: NotFound: no container has that id or that unambiguous prefix.
        """
        request = api_pb2.ContainerStatusRequest(container_id=id_or_prefix, verbose=True)
        answer = await self._runtime.ContainerStatus(request, timeout=_TIMEOUT_S)
        info = _info(answer.info)
        return Container(
            id=container_id(answer.status.id),
            sandbox=sandbox_id(_text(info, "sandboxID")),
            status=answer.status,
            pid=int(info.get("pid") or 0),
            snapshotter=_text(info, "snapshotter"),
            snapshot_key=_text(info, "snapshotKey"),
            runtime_type=_text(info, "runtimeType"),
            spec=_table(info, "runtimeSpec"),
            config=_table(info, "config"),
        )

    async def sandbox(self, id_or_prefix: str) -> Sandbox:
        """Return one pod sandbox; raise like the CRI call when there is none."""
        request = api_pb2.PodSandboxStatusRequest(pod_sandbox_id=id_or_prefix, verbose=True)
        answer = await self._runtime.PodSandboxStatus(request, timeout=_TIMEOUT_S)
        options = answer.status.linux.namespaces.options
        host = options.network == api_pb2.NODE
        return Sandbox(
            id=sandbox_id(answer.status.id),
            status=answer.status,
            netns="" if host else _netns(_table(_info(answer.info), "runtimeSpec")),
            ready=answer.status.state == api_pb2.SANDBOX_READY,
            host_network=host,
        )

    async def containers(self, sandbox: SandboxId | None = None) -> list[api_pb2.Container]:
        """List the containers of one sandbox, or of the node, in any state."""
        chosen = api_pb2.ContainerFilter(pod_sandbox_id=sandbox or "")
        answer = await self._runtime.ListContainers(
            api_pb2.ListContainersRequest(filter=chosen), timeout=_TIMEOUT_S
        )
        return list(answer.containers)

    async def sandboxes(self) -> list[api_pb2.PodSandbox]:
        """List all pod sandboxes of the node, in any state."""
        answer = await self._runtime.ListPodSandbox(
            api_pb2.ListPodSandboxRequest(), timeout=_TIMEOUT_S
        )
        return list(answer.items)

    async def start_container(self, container: ContainerId) -> None:
        """Start a created container; no deadline but the caller's."""
        await self._runtime.StartContainer(api_pb2.StartContainerRequest(container_id=container))

    async def end_container(self, container: ContainerId) -> None:
        """Have a container's processes killed and wait for their end."""
        await self._runtime.StopContainer(
            api_pb2.StopContainerRequest(container_id=container, timeout=0), timeout=_TIMEOUT_S
        )

    async def sandbox_of(self, container: str) -> str:
        """Return the sandbox of a container; "" if there is no such container."""
        chosen = api_pb2.ContainerFilter(id=container)
        answer = await self._runtime.ListContainers(
            api_pb2.ListContainersRequest(filter=chosen), timeout=_TIMEOUT_S
        )
        return next((str(found.pod_sandbox_id) for found in answer.containers), "")

    async def addresses(self, sandbox: str) -> tuple[str, ...]:
        """Return the addresses that CNI gave a sandbox; none where the runtime tells none."""
        request = api_pb2.PodSandboxStatusRequest(pod_sandbox_id=sandbox)
        answer = await self._runtime.PodSandboxStatus(request, timeout=_TIMEOUT_S)
        network = answer.status.network
        return tuple(ip for ip in (network.ip, *(more.ip for more in network.additional_ips)) if ip)

    async def remove_container(self, container: ContainerId) -> None:
        """Remove a container that does not run."""
        await self._runtime.RemoveContainer(
            api_pb2.RemoveContainerRequest(container_id=container), timeout=_TIMEOUT_S
        )

    async def image_id(self, reference: str) -> str:
        """Return the id of an image by any of its names; "" if it is not on the node."""
        request = api_pb2.ImageStatusRequest(image=api_pb2.ImageSpec(image=reference))
        answer = await self._images.ImageStatus(request, timeout=_TIMEOUT_S)
        return str(answer.image.id)

    async def pull_image(self, reference: str, config: api_pb2.PodSandboxConfig) -> None:
        """Pull an image; no deadline but the caller's."""
        request = api_pb2.PullImageRequest(
            image=api_pb2.ImageSpec(image=reference), sandbox_config=config
        )
        await self._images.PullImage(request)


def _info(info: Any) -> dict[str, Any]:
    text = info.get("info", "")
    if not text:
        raise NotFound("containerd gave no verbose status", hint="is the object being removed?")
    parsed = json.loads(text)
    return parsed if isinstance(parsed, dict) else {}


def _text(table: dict[str, Any], key: str) -> str:
    value = table.get(key)
    if not isinstance(value, str):
        raise Precondition(f"containerd's verbose status has no text {key!r}")
    return value


def _table(table: dict[str, Any], key: str) -> dict[str, Any]:
    value = table.get(key)
    if not isinstance(value, dict):
        raise Precondition(f"containerd's verbose status has no object {key!r}")
    return value


def _netns(spec: dict[str, Any]) -> str:
    for namespace in spec.get("linux", {}).get("namespaces", []):
        if namespace.get("type") == "network":
            path = str(namespace.get("path") or "")
            if path and Path(path).is_absolute():
                return path
    raise Precondition("the sandbox has no network namespace that is bound to a path")
