"""containerd's own records behind its CRI: containers and tasks, leases, snapshot mounts.

These calls go to containerd's native services. Two things that CRI cannot do are needed: to change
the runtime options of a created container, which containerd allows only by deleting and creating
its record; and to delete a task that CRI does not know of.

Source: containerd api/services/{containers,leases,snapshots,tasks}/v1 (1.7 to 2.4);
core/metadata/containers.go for what an update may change; plugins/services/tasks/local.go.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crishim._proto.containerd.services.containers.v1 import containers_pb2, containers_pb2_grpc
from crishim._proto.containerd.services.leases.v1 import leases_pb2, leases_pb2_grpc
from crishim._proto.containerd.services.snapshots.v1 import snapshots_pb2, snapshots_pb2_grpc
from crishim._proto.containerd.services.tasks.v1 import tasks_pb2, tasks_pb2_grpc
from crishim.containerd.service import Service
from crishim.errors import RuntimeNotFound

if TYPE_CHECKING:
    import grpc.aio

    from crishim.ids import ContainerId, SandboxId

_TIMEOUT_S = 30.0
_TASK_END_S = 2.0
_EXPIRE_LABEL = "containerd.io/gc.expire"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One mount of a snapshot, not yet mounted: type, source and options such as upperdir=."""

    type: str
    source: str
    options: tuple[str, ...]


class Records:
    """Calls to containerd's native services over a channel that somebody else owns.

    Args: namespace: containerd's namespace of CRI containers, usually "k8s.io".
    """

    def __init__(self, channel: grpc.aio.Channel, *, namespace: str) -> None:
        self.namespace = namespace
        self._metadata = (("containerd-namespace", namespace),)
        self._containers = Service(containers_pb2_grpc.ContainersStub(channel))
        self._leases = Service(leases_pb2_grpc.LeasesStub(channel))
        self._snapshots = Service(snapshots_pb2_grpc.SnapshotsStub(channel))
        self._tasks = Service(tasks_pb2_grpc.TasksStub(channel))

    async def container(self, container: ContainerId | SandboxId) -> containers_pb2.Container:
        """Return the record of one container, or of a sandbox's own; or raise RuntimeNotFound."""
        request = containers_pb2.GetContainerRequest(id=container)
        answer = await self._call(self._containers.Get, request)
        record: containers_pb2.Container = answer.container
        return record

    async def exists(self, container: ContainerId) -> bool:
        """Return whether there is a record of a container."""
        try:
            await self.container(container)
        except RuntimeNotFound:
            return False
        return True

    async def delete_container(self, container: ContainerId) -> None:
        """Delete the record only; the snapshot and a task stay."""
        await self._call(
            self._containers.Delete, containers_pb2.DeleteContainerRequest(id=container)
        )

    async def create_container(self, record: containers_pb2.Container) -> None:
        """Create a record exactly as given, with new timestamps."""
        await self._call(
            self._containers.Create, containers_pb2.CreateContainerRequest(container=record)
        )

    async def delete_task(self, container: ContainerId) -> bool:
        """Delete a task whose first process has ended; return whether that was done.

        It was not where containerd, or its shim, has no task of the container. The container's
        record stays.
        Raises: RuntimeRefused: it has not ended within two seconds, and the task stays; or
            containerd could not delete it.
        """
        try:
            ended = tasks_pb2.WaitRequest(container_id=container)
            await self._call(self._tasks.Wait, ended, timeout_s=_TASK_END_S)
            await self._call(
                self._tasks.Delete, tasks_pb2.DeleteTaskRequest(container_id=container)
            )
        except RuntimeNotFound:
            return False
        return True

    async def mounts(self, *, snapshotter: str, key: str) -> list[Mount]:
        """Return how the active snapshot `key` would be mounted."""
        request = snapshots_pb2.MountsRequest(snapshotter=snapshotter, key=key)
        answer = await self._call(self._snapshots.Mounts, request)
        return [
            Mount(type=m.type, source=m.source, options=tuple(m.options)) for m in answer.mounts
        ]

    async def lease_snapshot(
        self, lease: str, *, snapshotter: str, key: str, lifetime_s: float
    ) -> None:
        """Keep a snapshot from garbage collection until `unlease` or the end of its life time.

        A snapshot without a container record may be collected at any moment.
        """
        expiry = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + lifetime_s))
        await self._call(
            self._leases.Create, leases_pb2.CreateRequest(id=lease, labels={_EXPIRE_LABEL: expiry})
        )
        resource = leases_pb2.Resource(id=key, type=f"snapshots/{snapshotter}")
        await self._call(
            self._leases.AddResource, leases_pb2.AddResourceRequest(id=lease, resource=resource)
        )

    async def unlease(self, lease: str) -> None:
        """Delete a lease; what it held is judged by containerd's collector again."""
        await self._call(self._leases.Delete, leases_pb2.DeleteRequest(id=lease))

    async def _call(self, method: Any, request: Any, *, timeout_s: float = _TIMEOUT_S) -> Any:
        return await method(request, metadata=self._metadata, timeout=timeout_s)
