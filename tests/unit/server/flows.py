"""A daemon's flows and CRI methods, composed as the daemon does it, on a fake containerd."""

import asyncio
import contextlib
import dataclasses
import os
import platform
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

from crishim._proto.runtime.v1 import api_pb2, api_pb2_grpc
from crishim.archive.writer import ArchiveWriter
from crishim.config import Config, ContainerdConfig, NetworkConfig
from crishim.containerd.channel import open_channel
from crishim.daemon.build import Flows, build_flows, build_methods
from crishim.kernel.net.interface import InterfaceState
from crishim.paths import Paths
from crishim.server.cri.methods import CriMethods
from tests.fakes.containerd import Containerd, Pod
from tests.unit.criu_samples import one_process
from tests.unit.samples import manifest
from tests.unit.server.relaying import Relaying, relaying

RUNC = """#!/bin/sh
[ "$1" = --version ] && echo "runc version 1.3.6"
[ "$2" = --help ] && echo "--link-remap mode: soft|full|ignore"
exit 0
"""
ANNOTATION = "crishim.io/restore"


@dataclass
class Node:
    """One node: whoever calls `methods` is a kubelet or crictl."""

    relay: Relaying
    containerd: Containerd
    flows: Flows
    methods: CriMethods
    paths: Paths

    @property
    def cri(self) -> api_pb2_grpc.RuntimeServiceStub:
        return self.relay.cri

    def archive(
        self,
        name: str = "saved",
        *,
        state: InterfaceState | None = None,
        images: dict[str, bytes] | None = None,
        **container: str,
    ) -> Path:
        """Put a checkpoint into the store.

        Args: state: of its pod's interface, which was stopped; None for one that went on. images:
            in place of some of its images.
        """
        self.paths.store.mkdir(mode=0o700, parents=True, exist_ok=True)
        sample = manifest()
        said = replace(
            sample,
            container=replace(sample.container, **container),
            platform=replace(sample.platform, architecture=platform.machine(), cpu_features=()),
            interfaces=(dataclasses.asdict(state),) if state else (),
            options=replace(sample.options, source_running=state is None),
            bind_mounts=(),
        )
        path = self.paths.store / f"{name}.tar"
        with ArchiveWriter.create(path) as writer:
            for entry, data in {**one_process(7), **(images or {})}.items():
                writer.add_bytes(entry, data)
            writer.commit(said)
        return path

    def request(
        self, pod: Pod, *, image: str = "", name: str = "counter", attempt: int = 0, **words: str
    ) -> api_pb2.CreateContainerRequest:
        """Ask for a container; `words` are our annotations of its pod, such as restore="saved"."""
        keys = {f"crishim.io/{key.replace('_', '-')}": text for key, text in words.items()}
        return api_pb2.CreateContainerRequest(
            pod_sandbox_id=pod.id,
            config=api_pb2.ContainerConfig(
                metadata=api_pb2.ContainerMetadata(name=name, attempt=attempt),
                image=api_pb2.ImageSpec(image=image),
                annotations={"io.kubernetes.container.hash": "1"},
            ),
            sandbox_config=api_pb2.PodSandboxConfig(metadata=pod.metadata, annotations=keys),
        )

    async def create(self, pod: Pod, **asked: object) -> str:
        answer = await self.cri.CreateContainer(self.request(pod, **asked))
        return str(answer.container_id)

    async def start(self, container: str) -> None:
        await self.cri.StartContainer(api_pb2.StartContainerRequest(container_id=container))

    async def stop_pod(self, pod: Pod) -> None:
        await self.cri.StopPodSandbox(api_pb2.StopPodSandboxRequest(pod_sandbox_id=pod.id))

    async def remove_pod(self, pod: Pod) -> None:
        await self.cri.RemovePodSandbox(api_pb2.RemovePodSandboxRequest(pod_sandbox_id=pod.id))

    async def forget_preparations(self, pod: Pod) -> None:
        """Let what waits for a create to come again go, as the pod's stop does."""
        self.flows.leftovers.preparations.drop(pod.id)
        async with asyncio.timeout(5):
            while self.paths.preparations.exists() and list(self.paths.preparations.iterdir()):
                await asyncio.sleep(0.001)

    def state(self) -> list[str]:
        """Return the files of the state that are no checkpoints."""
        found = []
        for top, _, files in os.walk(self.paths.state):
            found += [f"{Path(top).relative_to(self.paths.state)}/{name}" for name in files]
        return sorted(name for name in found if not name.startswith("checkpoints/"))


@contextlib.asynccontextmanager
async def serving_node(top: Path) -> AsyncIterator[Node]:
    """Serve a node's CRI socket; the daemon has recovered."""
    runc = top / "runc"
    runc.write_text(RUNC)
    runc.chmod(0o755)
    paths = Paths(state=top / "state", run=top / "run")
    async with relaying(top) as relay, open_channel(relay.runtime_socket) as channel:
        containerd = Containerd(top, runc=runc)
        relay.runtime.answers.update(containerd.answers)
        config = Config(
            containerd=ContainerdConfig(socket=relay.runtime_socket),
            network=NetworkConfig(keep_unmanaged=True),
            paths=paths,
        )
        flows = build_flows(config, channel)
        methods = build_methods(config, flows, calls=relay.calls)
        relay.overrides.update(methods.overrides())
        yield Node(relay, containerd, flows, methods, paths)
