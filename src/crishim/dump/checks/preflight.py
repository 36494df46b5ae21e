"""Refuse a dump that cannot work, before anything is touched: one sentence, with the cure.

What CRIU would find out after the freeze is looked for here first. Everything that this module
lets pass is meant to work. A pod on the node's network, process ids or System V IPC is let pass as
long as nothing of it lies outside the container.
"""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

from crishim._proto.runtime.v1 import api_pb2
from crishim.aio.lanes import Lane
from crishim.aio.shield import in_thread
from crishim.container import describe
from crishim.dump import remaps
from crishim.dump.checks import endpoints, openfiles, space
from crishim.errors import NotFound, Precondition, Unsupported
from crishim.kernel import mounts, procs
from crishim.modes import TcpMode
from crishim.network import cni, keeping

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

    from crishim.container.resolve import Source
    from crishim.dump.request import DumpRequest

# File systems that CRIU 4.2 can mount again by itself. Overlays are none of them, whatever its list
# says: it dumps one, and then mounts it by the paths of its directories, where those are not yet.
# Source: criu/filesystems.c, criu/mount-v2.c.
_DUMPABLE = frozenset(
    (
        *("proc", "sysfs", "devtmpfs", "binfmt_misc", "tmpfs", "devpts", "simfs", "btrfs"),
        *("pstore", "mqueue", "securityfs", "fusectl", "debugfs", "tracefs", "cgroup", "cgroup2"),
        "autofs",
    )
)


async def check(source: Source, request: DumpRequest, *, pids: list[int], target: Path) -> None:
    """Look at a running container.

    Args: pids: all processes in its cgroup. target: where the archive is to appear.
    Raises: Precondition, Unsupported, NoSpace: the first reason found. NotFound: no directory for
        the archive, or the container is gone.
    """
    _terminal(source)
    _users(source)
    _neighbours(source, request)
    _foreign_users(pids)
    files = await in_thread(procs.open_files, pids)
    _files(files)
    await in_thread(_mount_table, source)
    await in_thread(_node_ipc, source, pids)
    await in_thread(lambda: openfiles.check(source, pids, stop=request.stop))
    await in_thread(remaps.check, pids, remaps.places(source))
    await endpoints.check(source, request, inodes=files.sockets, pids=pids)
    await in_thread(space.check, source, pids, target, lane=Lane.BULK)


async def network(source: Source, request: DumpRequest, keeps: keeping.Policy) -> None:
    """Refuse to stop a container for the sake of connections whose address nobody could keep.

    Raises: Precondition: it says who gives and leads the addresses of its pod.
    """
    if request.stop and request.tcp == TcpMode.ESTABLISHED and not source.sandbox.host_network:
        found = await in_thread(cni.sandbox_network, source.sandbox.id)
        keeping.refuse_unmanaged(found, keeps, hint="checkpoint it with --tcp close")


def sessions(source: Source, pids: Sequence[int]) -> None:
    """Refuse processes whose parent lies outside: CRIU takes a tree, and they are not in it.

    containerd's shim started those of an exec session, and lies outside of the pod's process ids.
    Where the containers of a pod share these, their first process, the pause process, takes those
    that have lost their parent.
    Raises: Precondition: names the first process of an exec session. Unsupported: names one that
        the pause process has taken.
    """
    inside = set(pids)
    for pid in pids:
        if pid == source.container.pid or not (parent := procs.parent(pid)) or parent in inside:
            continue
        if procs.is_init_of(parent, pid):
            raise Unsupported(
                f"{procs.title(pid)} has lost its parent, and the pod's pause process, which lies "
                "outside the container, has taken it",
                hint="give the container process ids of its own (no shareProcessNamespace: true; "
                "in CRI namespace_options.pid 1), where its first process takes orphans",
            )
        raise Precondition(
            f"{procs.title(pid)} was started in the container by an exec session that is "
            "still open",
            hint="end that session first",
        )


def tree(source: Source, pids: Sequence[int]) -> list[int]:
    """Return those of a container's processes that its first one has started, itself among them."""
    parents = {pid: procs.parent(pid) for pid in pids if pid != source.container.pid}
    found = {source.container.pid}
    while grown := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= grown
    return [pid for pid in pids if pid in found]


def undumpable(table: Sequence[mounts.Mount], spec: dict[str, Any]) -> list[str]:
    """Name the mounts of a container that CRIU can neither dump nor find again.

    Mounts of the container's specification are found again by their place, whatever they are, and
    so are further mounts of the same file systems.
    """
    places = {"/"} | {str(item.get("destination")) for item in spec.get("mounts") or []}
    known = {mount.device for mount in table if mount.mount_point in places}
    return [
        f"{mount.mount_point} ({mount.fs_type})"
        for mount in table
        if mount.fs_type not in _DUMPABLE and mount.device not in known
    ]


def _terminal(source: Source) -> None:
    if source.container.spec.get("process", {}).get("terminal"):
        raise Unsupported(
            "the container has a terminal, whose other end lies outside it",
            hint="run it without tty: true",
        )


def _users(source: Source) -> None:
    """Refuse what could be dumped and never restored.

    CRIU makes a user namespace of its own, from which it may not enter the network namespace that
    belongs to the pod's.
    """
    if describe.has_user_namespace(source.container.spec):
        raise Unsupported(
            "the container's pod has a user namespace of its own, which CRIU cannot restore into",
            hint="run the pod without hostUsers: false",
        )


def _foreign_users(pids: Sequence[int]) -> None:
    """Refuse processes whose limits we may not read, and so CRIU may not either.

    Source: prlimit(2), PERMISSIONS.
    """
    for pid in pids:
        try:
            resource.prlimit(pid, resource.RLIMIT_CPU)
        except ProcessLookupError:
            continue
        except PermissionError as error:
            raise Unsupported(
                f"{procs.title(pid)} runs as another user than root, and CRIU may not read its "
                "limits without CAP_SYS_RESOURCE",
                hint="give crishim all capabilities; a container around the node may withhold them",
            ) from error


def _neighbours(source: Source, request: DumpRequest) -> None:
    if request.stop and source.neighbours:
        raise Unsupported(
            f"{source.neighbours} other containers of the pod are running, and stopping this one "
            "would hold their connections too",
            hint="checkpoint it without stopping it",
        )


def _files(files: procs.OpenFiles) -> None:
    if files.io_uring:
        raise Unsupported(
            f"{procs.title(files.io_uring[0])} uses io_uring, which CRIU cannot dump",
            hint="run the pod with seccompProfile RuntimeDefault, which blocks io_uring: the "
            "program then does without; UV_USE_IO_URING=0 does the same for Node.js",
        )
    for terminal, pid in files.terminals.items():
        raise Precondition(
            f"{procs.title(pid)} has the terminal {terminal} open", hint="end that session first"
        )


def _mount_table(source: Source) -> None:
    try:
        table = mounts.read_mounts(source.container.pid)
    except OSError as error:
        raise NotFound(f"the container's process {source.container.pid} is gone") from error
    if found := undumpable(table, source.container.spec):
        raise Unsupported(
            f"CRIU cannot dump mounts that were made inside the container: {', '.join(found)}",
            hint="unmount them, or give them to the container as volumes",
        )


def _node_ipc(source: Source, pids: list[int]) -> None:
    """Refuse System V shared memory of the node: it belongs to others too and stays behind."""
    options = source.sandbox.status.linux.namespaces.options
    if options.ipc == api_pb2.NODE and (pid := procs.system_v_memory(pids)):
        raise Unsupported(
            f"{procs.title(pid)} uses System V shared memory of the node (hostIPC)",
            hint="run the pod without hostIPC: true",
        )
