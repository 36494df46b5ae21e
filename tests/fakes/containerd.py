"""containerd of a few lines, on grpc.aio: containers, sandboxes, leases and snapshots in memory.

A container whose record names a runtime binary of ours is restored by its start, as our wrapper
does it; any other start is a cold one, and counted. A test makes calls fail, or waits in them.
"""

import json
import secrets
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from crishim._proto.containerd.services.containers.v1 import containers_pb2
from crishim._proto.containerd.services.images.v1 import images_pb2
from crishim._proto.containerd.services.leases.v1 import leases_pb2
from crishim._proto.containerd.services.snapshots.v1 import snapshots_pb2
from crishim._proto.containerd.services.tasks.v1 import tasks_pb2
from crishim._proto.containerd.types.runc.options import oci_pb2
from crishim._proto.runtime.v1 import api_pb2
from tests.fakes.cri_server import IMAGES, RUNTIME, Answer

NATIVE = "/containerd.services."
CONTAINERS = NATIVE + "containers.v1.Containers/"
LEASES = NATIVE + "leases.v1.Leases/"
IMAGE_ID = "sha256:" + "1" * 64


class Refused(Exception):
    """How a call ends."""

    def __init__(self, code: grpc.StatusCode, details: str = "") -> None:
        super().__init__(details)
        self.code = code
        self.details = details


@dataclass
class Body:
    """One container."""

    id: str
    sandbox: str
    metadata: api_pb2.ContainerMetadata
    upper: Path
    image: str
    state: int = api_pb2.CONTAINER_CREATED
    started_at: int = 0
    annotations: dict[str, str] = field(default_factory=dict)


@dataclass
class Pod:
    """One sandbox."""

    id: str
    metadata: api_pb2.PodSandboxMetadata
    ip: str = "10.0.0.9"
    more_ips: tuple[str, ...] = ()
    ready: bool = True
    verbose: bool = True


class Containerd:
    """State and behaviour; `answers` go into a `FakeRuntime`.

    Attributes:
        records: containerd's own records of containers.
        cold: containers that began from nothing.
        revived: containers whose wrapper restored them.
        brief: what is restored comes to its end before anybody can look.
        before: awaited before a method is answered; by its last word, such as "StartContainer".
    """

    def __init__(self, top: Path, *, runc: Path) -> None:
        self.top = top
        self.runc = runc
        self.pods: dict[str, Pod] = {}
        self.bodies: dict[str, Body] = {}
        self.records: dict[str, containers_pb2.Container] = {}
        self.leases: dict[str, list[str]] = {}
        self.images = {IMAGE_ID}
        self.cold: list[str] = []
        self.revived: list[str] = []
        self.before: dict[str, Callable[[object], Awaitable[None]]] = {}
        self.counts: defaultdict[str, int] = defaultdict(int)
        self.criu_error = ""
        self.brief = False
        self.answers: dict[str, Answer] = {}
        for name, kind in api_pb2.DESCRIPTOR.services_by_name[
            "RuntimeService"
        ].methods_by_name.items():
            if handler := getattr(self, name, None):
                self._serve(RUNTIME + name, kind.input_type._concrete_class, handler)
        self._serve(IMAGES + "ImageStatus", api_pb2.ImageStatusRequest, self.ImageStatus)
        self._serve(IMAGES + "PullImage", api_pb2.PullImageRequest, self.PullImage)
        self._serve(CONTAINERS + "Get", containers_pb2.GetContainerRequest, self.get_record)
        self._serve(
            CONTAINERS + "Delete", containers_pb2.DeleteContainerRequest, self.delete_record
        )
        self._serve(
            CONTAINERS + "Create", containers_pb2.CreateContainerRequest, self.create_record
        )
        self._serve(LEASES + "Create", leases_pb2.CreateRequest, self.create_lease)
        self._serve(LEASES + "AddResource", leases_pb2.AddResourceRequest, self.add_resource)
        self._serve(LEASES + "Delete", leases_pb2.DeleteRequest, self.delete_lease)
        self._serve(NATIVE + "images.v1.Images/Get", images_pb2.GetImageRequest, self.get_image)
        self._serve(NATIVE + "tasks.v1.Tasks/Wait", tasks_pb2.WaitRequest, self.wait_task)
        mounts = NATIVE + "snapshots.v1.Snapshots/Mounts"
        self._serve(mounts, snapshots_pb2.MountsRequest, self.mounts)

    def _serve(self, method: str, kind: type, handler: Callable) -> None:
        name = method.rpartition("." if NATIVE in method else "/")[2]

        async def answer(requests, context):
            raw = b""
            async for request in requests:
                raw = request
            request = kind.FromString(raw)
            self.counts[name] += 1
            try:
                if hook := self.before.get(name):
                    await hook(request)
                result = handler(request)
            except Refused as refused:
                await context.abort(refused.code, refused.details)
            await context.write(result.SerializeToString())

        self.answers[method] = answer

    def pod(self, *, uid: str = "uid", namespace: str = "default", ip: str = "10.0.0.9") -> Pod:
        """Make a sandbox."""
        metadata = api_pb2.PodSandboxMetadata(name="pod", uid=uid, namespace=namespace)
        pod = Pod(id=secrets.token_hex(32), metadata=metadata, ip=ip)
        self.pods[pod.id] = pod
        return pod

    def running(self) -> list[str]:
        return [b.id for b in self.bodies.values() if b.state == api_pb2.CONTAINER_RUNNING]

    # CRI, in the words of its protos.

    def CreateContainer(self, request):
        self._pod(request.pod_sandbox_id)
        identity = secrets.token_hex(32)
        upper = self.top / "snapshots" / identity / "fs"
        upper.mkdir(parents=True)
        (upper.parent / "work").mkdir()
        self.bodies[identity] = Body(
            id=identity,
            sandbox=request.pod_sandbox_id,
            metadata=request.config.metadata,
            upper=upper,
            image=request.config.image.image,
            annotations=dict(request.config.annotations),
        )
        record = containers_pb2.Container(
            id=identity, snapshotter="overlayfs", snapshot_key=identity
        )
        record.runtime.name = "io.containerd.runc.v2"
        record.runtime.options.type_url = "containerd.runc.v1.Options"
        record.runtime.options.value = oci_pb2.Options(
            binary_name=str(self.runc)
        ).SerializeToString()
        self.records[identity] = record
        return api_pb2.CreateContainerResponse(container_id=identity)

    def StartContainer(self, request):
        body = self._body(request.container_id)
        record = self.records.get(body.id)
        if record is None or body.state != api_pb2.CONTAINER_CREATED:
            raise Refused(grpc.StatusCode.UNKNOWN, "cannot start")
        wrapper = Path(oci_pb2.Options.FromString(record.runtime.options.value).binary_name)
        if wrapper == self.runc:
            self.cold.append(body.id)
        elif not (wrapper.parent / "pending").exists():
            raise Refused(grpc.StatusCode.UNKNOWN, "the checkpoint was restored before")
        else:
            if self.criu_error:
                (wrapper.parent / "work" / "restore.log").write_text(self.criu_error)
                raise Refused(grpc.StatusCode.UNKNOWN, "OCI runtime create failed")
            self.revived.append(body.id)
        ended = self.brief and body.id in self.revived
        body.state = api_pb2.CONTAINER_EXITED if ended else api_pb2.CONTAINER_RUNNING
        body.started_at = 1
        return api_pb2.StartContainerResponse()

    def StopContainer(self, request):
        body = self.bodies.get(request.container_id)
        if body is not None and body.state == api_pb2.CONTAINER_RUNNING:
            body.state = api_pb2.CONTAINER_EXITED
        return api_pb2.StopContainerResponse()

    def RemoveContainer(self, request):
        self.bodies.pop(request.container_id, None)
        self.records.pop(request.container_id, None)
        return api_pb2.RemoveContainerResponse()

    def ContainerStatus(self, request):
        body = self._body(request.container_id)
        info = {
            "sandboxID": body.sandbox,
            "pid": 0,
            "snapshotter": "overlayfs",
            "snapshotKey": body.id,
            "runtimeType": "io.containerd.runc.v2",
            "runtimeSpec": {"mounts": [], "linux": {}, "process": {}},
            "config": {},
        }
        return api_pb2.ContainerStatusResponse(
            status=api_pb2.ContainerStatus(
                id=body.id,
                metadata=body.metadata,
                state=body.state,
                started_at=body.started_at,
                annotations=body.annotations,
            ),
            info={"info": json.dumps(info)} if request.verbose else {},
        )

    def ListContainers(self, request):
        chosen = request.filter
        return api_pb2.ListContainersResponse(
            containers=[
                api_pb2.Container(
                    id=b.id, pod_sandbox_id=b.sandbox, metadata=b.metadata, state=b.state
                )
                for b in self.bodies.values()
                if b.sandbox.startswith(chosen.pod_sandbox_id) and b.id.startswith(chosen.id)
            ]
        )

    def PodSandboxStatus(self, request):
        pod = self._pod(request.pod_sandbox_id)
        spec = {"linux": {"namespaces": [{"type": "network", "path": f"/run/netns/{pod.id}"}]}}
        return api_pb2.PodSandboxStatusResponse(
            status=api_pb2.PodSandboxStatus(
                id=pod.id,
                metadata=pod.metadata,
                state=api_pb2.SANDBOX_READY if pod.ready else api_pb2.SANDBOX_NOTREADY,
                network=api_pb2.PodSandboxNetworkStatus(
                    ip=pod.ip, additional_ips=[api_pb2.PodIP(ip=ip) for ip in pod.more_ips]
                ),
            ),
            info={"info": json.dumps({"runtimeSpec": spec})}
            if request.verbose and pod.verbose
            else {},
        )

    def ListPodSandbox(self, request):
        return api_pb2.ListPodSandboxResponse(
            items=[api_pb2.PodSandbox(id=p.id, metadata=p.metadata) for p in self.pods.values()]
        )

    def RunPodSandbox(self, request):
        return api_pb2.RunPodSandboxResponse(pod_sandbox_id=self.pod().id)

    def StopPodSandbox(self, request):
        for body in self.bodies.values():
            if body.sandbox == request.pod_sandbox_id and body.id in self.running():
                body.state = api_pb2.CONTAINER_EXITED
        if pod := self.pods.get(request.pod_sandbox_id):
            pod.ready = False
        return api_pb2.StopPodSandboxResponse()

    def RemovePodSandbox(self, request):
        self.pods.pop(request.pod_sandbox_id, None)
        for body in list(self.bodies.values()):
            if body.sandbox == request.pod_sandbox_id:
                self.bodies.pop(body.id)
                self.records.pop(body.id, None)
        return api_pb2.RemovePodSandboxResponse()

    def ImageStatus(self, request):
        found = request.image.image in self.images
        return api_pb2.ImageStatusResponse(image=api_pb2.Image(id=IMAGE_ID) if found else None)

    def PullImage(self, request):
        self.images.add(request.image.image)
        return api_pb2.PullImageResponse(image_ref=IMAGE_ID)

    # containerd's native services.

    def get_record(self, request):
        if request.id not in self.records:
            raise Refused(grpc.StatusCode.NOT_FOUND)
        return containers_pb2.GetContainerResponse(container=self.records[request.id])

    def delete_record(self, request):
        if self.records.pop(request.id, None) is None:
            raise Refused(grpc.StatusCode.NOT_FOUND)
        return containers_pb2.DeleteContainerRequest()  # empty, as the answer

    def create_record(self, request):
        if request.container.id in self.records:
            raise Refused(grpc.StatusCode.ALREADY_EXISTS)
        self.records[request.container.id] = request.container
        return containers_pb2.CreateContainerResponse(container=request.container)

    def create_lease(self, request):
        if request.id in self.leases:
            raise Refused(grpc.StatusCode.ALREADY_EXISTS)
        self.leases[request.id] = []
        return leases_pb2.CreateResponse(lease=leases_pb2.Lease(id=request.id))

    def add_resource(self, request):
        self.leases[request.id].append(request.resource.id)
        return leases_pb2.AddResourceRequest()  # empty, as the answer

    def delete_lease(self, request):
        if self.leases.pop(request.id, None) is None:
            raise Refused(grpc.StatusCode.NOT_FOUND)
        return leases_pb2.DeleteRequest()  # empty, as the answer

    def get_image(self, request):
        raise Refused(grpc.StatusCode.NOT_FOUND, "CRI's own list is all there is")

    def wait_task(self, request):
        raise Refused(grpc.StatusCode.NOT_FOUND, "CRI deletes the task of what has ended")

    def mounts(self, request):
        upper = self.bodies[request.key].upper
        options = [f"upperdir={upper}", f"workdir={upper.parent / 'work'}", "lowerdir=/"]
        mount = {"type": "overlay", "source": "overlay", "options": options}
        answer = snapshots_pb2.MountsResponse()
        answer.mounts.add(**mount)
        return answer

    def _pod(self, identity: str) -> Pod:
        if identity not in self.pods:
            raise Refused(grpc.StatusCode.NOT_FOUND, "no such sandbox")
        return self.pods[identity]

    def _body(self, identity: str) -> Body:
        found = [b for b in self.bodies.values() if identity and b.id.startswith(identity)]
        if len(found) != 1:
            raise Refused(grpc.StatusCode.NOT_FOUND, "no such container")
        return found[0]
