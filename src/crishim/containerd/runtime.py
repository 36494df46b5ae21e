"""Ask containerd about itself: version, process, snapshotter, runtime handlers.

Source: containerd api/services/{version,introspection}/v1; the `config` in the verbose answer of
CRI's Status is the CRI plugin's configuration (internal/cri/config, 1.7 to 2.4), `cniconfig` what
go-cni has loaded (ConfigResult in its types.go).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty

from crishim._proto.containerd.services.containers.v1 import containers_pb2, containers_pb2_grpc
from crishim._proto.containerd.services.introspection.v1 import introspection_pb2_grpc
from crishim._proto.containerd.services.version.v1 import version_pb2_grpc
from crishim._proto.runtime.v1 import api_pb2, api_pb2_grpc
from crishim.containerd.service import Service

if TYPE_CHECKING:
    from collections.abc import Mapping

    import grpc.aio

_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """A runtime handler that a pod may name.

    Attributes:
        runtime: such as "io.containerd.runc.v2".
        binary: "" for the runtime's own default.
        snapshotter: "" for containerd's default.
        default: whether pods that name none get it.
    """

    name: str
    runtime: str
    binary: str
    snapshotter: str
    default: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """What containerd says of itself.

    Attributes:
        pid: of the daemon.
        snapshotter: the default one, by the directory of its images.
        networks: the text of each CNI configuration by its network's name.
    """

    version: str
    pid: int
    snapshotter: str
    handlers: tuple[Handler, ...]
    networks: Mapping[str, str]


async def ask(channel: grpc.aio.Channel) -> Runtime:
    """Ask containerd what it is and how it is set up; raise RuntimeRefused if it does not say."""
    versions = Service(version_pb2_grpc.VersionStub(channel))
    introspection = Service(introspection_pb2_grpc.IntrospectionStub(channel))
    cri = Service(api_pb2_grpc.RuntimeServiceStub(channel))
    images = Service(api_pb2_grpc.ImageServiceStub(channel))
    version = await versions.Version(Empty(), timeout=_TIMEOUT_S)
    server = await introspection.Server(Empty(), timeout=_TIMEOUT_S)
    status = await cri.Status(api_pb2.StatusRequest(verbose=True), timeout=_TIMEOUT_S)
    places = await images.ImageFsInfo(api_pb2.ImageFsInfoRequest(), timeout=_TIMEOUT_S)
    return Runtime(
        version=version.version.removeprefix("v"),
        pid=server.pid,
        snapshotter=places.image_filesystems[0].fs_id.mountpoint.rpartition(".")[2],
        handlers=_handlers(status.info),
        networks=_networks(status.info),
    )


async def spec_annotations(
    channel: grpc.aio.Channel, *, namespace: str
) -> dict[str, Mapping[str, str]]:
    """Return the annotations in the OCI spec of every container and sandbox, by id."""
    containers = Service(containers_pb2_grpc.ContainersStub(channel))
    answer = await containers.List(
        containers_pb2.ListContainersRequest(),
        metadata=(("containerd-namespace", namespace),),
        timeout=_TIMEOUT_S,
    )
    return {
        record.id: json.loads(record.spec.value).get("annotations") or {}
        for record in answer.containers
        if record.spec.value
    }


def _networks(info: Mapping[str, str]) -> dict[str, str]:
    found = json.loads(info.get("cniconfig") or "{}") or {}
    configurations = [network.get("Config") or {} for network in found.get("Networks") or []]
    return {each.get("Name", ""): each.get("Source", "{}") for each in configurations}


def _handlers(info: Mapping[str, str]) -> tuple[Handler, ...]:
    plugin = json.loads(info.get("config") or "{}").get("containerd") or {}
    default = plugin.get("defaultRuntimeName", "")
    return tuple(
        Handler(
            name=name,
            runtime=table.get("runtimeType", ""),
            binary=(table.get("options") or {}).get("BinaryName", ""),
            snapshotter=table.get("snapshotter", ""),
            default=name == default,
        )
        for name, table in sorted((plugin.get("runtimes") or {}).items())
    )
