"""Find everything about a running container that a dump needs, before anything is touched.

The answer of this module is one frozen `Source`. Only what may have changed is asked again: all of
it after a wait for a turn, and in the pause which neighbours run. Nothing here changes anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crishim._proto.containerd.types.runc.options import oci_pb2
from crishim.errors import InvalidRequest, NotFound, Precondition
from crishim.kernel import mounts
from crishim.tools.runc import Runc

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from crishim._proto.containerd.services.containers.v1 import containers_pb2
    from crishim.containerd.cri import Container, Cri, Sandbox
    from crishim.containerd.records import Records
    from crishim.ids import ContainerId
    from crishim.paths import Paths

RUNC_RUNTIME = "io.containerd.runc.v2"
_SHIM_RUNC_ROOT = Path("/run/containerd/runc")
_OPTIONS_TYPE = "containerd.runc.v1.Options"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A running container and where its parts lie on this node.

    Attributes:
        layer: directories of the overlay that is its root filesystem.
        log: the CRI log file; None when the container has none.
        neighbours: how many other containers of the pod are running.
        kubelet: whether a kubelet manages it (an exit would be restarted at once).
    """

    container: Container
    sandbox: Sandbox
    runc: Runc
    layer: mounts.Overlay
    log: Path | None
    neighbours: int
    kubelet: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolver:
    """Finds what belongs to a container on this node; one object serves the daemon."""

    cri: Cri
    records: Records
    paths: Paths

    async def source(self, id_or_prefix: str) -> Source:
        """Look a running container up.

        Raises:
            NotFound: there is no such container.
            Precondition: it does not run, or its runtime is not runc.
            Unsupported: its root filesystem has no writable overlay layer.
        """
        if not id_or_prefix:
            raise InvalidRequest("no container was named")
        container = await self.cri.container(id_or_prefix)
        if not container.running or container.pid <= 0:
            raise Precondition(
                f"container {container.id[:13]} is not running",
                hint="only running ones have a state",
            )
        sandbox = await self.cri.sandbox(container.sandbox)
        return Source(
            container=container,
            sandbox=sandbox,
            runc=await self.runc(container.id),
            layer=writable_layer(container.pid),
            log=Path(container.status.log_path) if container.status.log_path else None,
            neighbours=await neighbours(container, cri=self.cri),
            kubelet=from_kubelet(container.status.annotations),
        )

    async def runc(self, container: ContainerId) -> Runc:
        """Return the runc that containerd's shim uses for a container, running or not.

        Raises: RuntimeNotFound: containerd has no record of it. NotFound: our wrapper has lost the
            name of the real one. Precondition: another runtime than runc.
        """
        record = await self.records.container(container)
        return runc_of(record, paths=self.paths, namespace=self.records.namespace)


async def neighbours(container: Container, *, cri: Cri, starts: Collection[str] = ()) -> int:
    """Return how many other containers of a running container's pod run now.

    Args: starts: those that are being started, by their ids or the first digits; they count too.
    """
    found = await cri.containers(container.sandbox)
    running = (
        c.state == container.status.state or any(c.id.startswith(start) for start in starts)
        for c in found
        if c.id != container.id
    )
    return sum(running)


def from_kubelet(annotations: Mapping[str, str]) -> bool:
    """Return whether a container with these annotations is a kubelet's."""
    return "io.kubernetes.container.hash" in annotations


def runc_of(record: containers_pb2.Container, *, paths: Paths, namespace: str) -> Runc:
    """Return the runc that containerd's shim uses for a container.

    A container that we restored names our wrapper as its binary; the wrapper's directory names the
    real one.

    Raises: Precondition: another runtime than runc.
    """
    if record.runtime.name != RUNC_RUNTIME:
        raise Precondition(
            f"the runtime {record.runtime.name} is not supported",
            hint=f"crishim works with containers of {RUNC_RUNTIME}",
        )
    options = runtime_options(record)
    binary = options.binary_name or "runc"
    directory = paths.restores / record.id
    if Path(binary).parent == directory:
        try:
            binary = (directory / "runc").read_text(encoding="utf-8").strip()
        except FileNotFoundError as error:
            raise NotFound(f"the record of the restored container {record.id} is gone") from error
    root = Path(options.root) if options.root else _SHIM_RUNC_ROOT
    return Runc(binary=binary, root=root / namespace, systemd_cgroup=options.systemd_cgroup)


def runtime_options(record: containers_pb2.Container) -> oci_pb2.Options:
    """Return the runc options in a container's record; empty ones if it has none."""
    options = oci_pb2.Options()
    if record.runtime.options.type_url.rpartition("/")[2] == _OPTIONS_TYPE:
        options.ParseFromString(record.runtime.options.value)
    return options


def writable_layer(pid: int) -> mounts.Overlay:
    """Return the directories of the overlay on which a process has its root.

    They come from the options of that mount line, never from guessed paths.

    Raises: Unsupported: the root is no overlay, or an overlay without an upper directory.
        Precondition: it has changed its root directory. NotFound: the process is gone.
    """
    try:
        root = mounts.mount_at(mounts.read_mounts(pid), "/")
    except OSError as error:
        raise NotFound(f"the container's process {pid} is gone") from error
    if root is None:
        raise Precondition(
            f"the container's first process ({pid}) has changed its root directory (chroot)",
            hint="let a child of it do that",
        )
    return mounts.overlay_of(root)
