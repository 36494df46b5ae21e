"""Read what rights processes have: from CRIU's images of an archive, or of running ones from /proc.

The images are what CRIU will act upon, so they count, and not what the manifest says. Every thread
is looked at: each has credentials of its own.

Source: images/{core,creds,pstree,seccomp,inventory,mnt}.proto, criu/seccomp.c, criu/namespaces.c (a
process whose namespace has the number of CRIU's own stays in the node's) of CRIU 4.2;
proc_pid_status(5).
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crishim import strictjson
from crishim._proto.criu import images_pb2
from crishim.archive import criuimages
from crishim.archive.writer import IMAGE_DIRECTORY
from crishim.errors import Corrupt, NotFound, Unsupported
from crishim.kernel import mounts as mount_table
from crishim.kernel import procs
from crishim.restore.rights import Rights, ThreadRights

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from crishim.archive.reader import ArchiveReader

_SPEC = "spec.dump"
_SECCOMP = "seccomp.img"
_ENDED = 2
_FOR_ALL_THREADS = 1  # SECCOMP_FILTER_FLAG_TSYNC
_KEEPS_CAPABILITIES = 1 << 2
_LABEL_BYTES_MAX = 4096
_GROUPS_MAX = 1 << 18
"""Of all threads that differ in anything; the kernel lets each of them have 65536."""
# What each namespace is called, in the images and in /proc.
_NAMESPACES = {
    "network": ("net_ns_id", "net"),
    "pid": ("pid_ns_id", "pid"),
    "ipc": ("ipc_ns_id", "ipc"),
    "uts": ("uts_ns_id", "uts"),
    "mount": ("mnt_ns_id", "mnt"),
}


def of_archive(archive: ArchiveReader) -> Rights:
    """Read what CRIU is going to restore. Blocks.

    Raises: NotFound: an image is missing. Corrupt: one is damaged. Unsupported: too many groups.
    """
    processes = list(
        criuimages.entries(archive, "pstree.img", criuimages.PSTREE_MAGIC, images_pb2.Process)
    )
    if not processes:
        raise Corrupt("pstree.img names no process")
    filters = images_pb2.Seccomp()
    if f"{IMAGE_DIRECTORY}{_SECCOMP}" in archive.members:
        found = criuimages.entries(archive, _SECCOMP, criuimages.SECCOMP_MAGIC, images_pb2.Seccomp)
        filters = next(found, filters)
    threads = _distinct(
        found for process in processes for found in _of_images(archive, process, filters)
    )
    mounts: dict[str, bool] = {}
    for mount in criuimages.mounts(archive):
        mounts[mount.destination] = mounts.get(mount.destination, True) and mount.read_only
    return Rights(
        threads=threads,
        on_node=_shared(archive, processes[0].pid),
        mounts=mounts,
        spec=strictjson.parse(archive.read(_SPEC), what=_SPEC).raw(),
    )


def of_processes(pids: Sequence[int], spec: Mapping[str, Any]) -> Rights:
    """Read what a dump of a container's running processes would hold. Blocks.

    Args: spec: they were started with.
    Raises: NotFound: they are gone. Unsupported: they have too many groups.
    """
    if not pids:
        raise NotFound("the container has no processes")
    first = pids[0]
    threads = _distinct(found for pid in pids for found in _of_running(pid))
    try:
        shared = frozenset(
            name
            for name, (_, link) in _NAMESPACES.items()
            if Path(f"/proc/{first}/ns/{link}").samefile(f"/proc/self/ns/{link}")
        )
        table = mount_table.read_mounts(first)
    except OSError as error:
        raise NotFound(f"the container's process {first} is gone") from error
    mounts = {item.mount_point: "ro" in item.options for item in table}
    return Rights(threads=threads, on_node=shared, mounts=mounts, spec=spec)


def _distinct(threads: Iterable[tuple[ThreadRights, str]]) -> dict[ThreadRights, str]:
    """Return the title of the first process by the rights that it and others have.

    A container's root gives each thread as many groups as it likes: they take our memory.
    """
    found: dict[ThreadRights, str] = {}
    groups = 0
    for thread, title in threads:
        if thread not in found:
            groups += len(thread.groups)
            if groups > _GROUPS_MAX:
                raise Unsupported(f"the threads of {title} and others have too many groups")
            found[thread] = title
    return found


def _of_running(pid: int) -> Iterator[tuple[ThreadRights, str]]:
    """Yield the rights of each thread of a process, and a title; none of one that is gone."""
    title = procs.title(pid)
    for task in procs.thread_directories(pid):
        with contextlib.suppress(OSError):
            yield _of_proc(task), title


def _of_images(
    archive: ArchiveReader, process: images_pb2.Process, filters: images_pb2.Seccomp
) -> Iterator[tuple[ThreadRights, str]]:
    """Yield the rights of each thread of a process, and a title; none of one that has ended."""
    main = _core(archive, process.pid)
    if main.tc.task_state == _ENDED:
        return
    title = f"process {process.pid} ({criuimages.text(main.tc.comm)})"
    everywhere = bool(main.tc.old_seccomp_mode) or _for_all_threads(main.thread_core, filters)
    for thread in {process.pid, *process.threads}:
        core = main if thread == process.pid else _core(archive, thread)
        if not core.thread_core.HasField("creds"):
            raise Corrupt(f"core-{thread}.img has no credentials")
        yield _thread(core.thread_core, filtered=everywhere), title


def _for_all_threads(leader: images_pb2.Thread, filters: images_pb2.Seccomp) -> bool:
    """Return whether a process's first thread shares its filter: the others' images say nothing."""
    place = leader.seccomp_filter
    if not leader.HasField("seccomp_filter") or place >= len(filters.seccomp_filters):
        return False
    return bool(filters.seccomp_filters[place].flags & _FOR_ALL_THREADS)


def _core(archive: ArchiveReader, thread: int) -> images_pb2.Core:
    name = f"core-{thread}.img"
    cores = criuimages.entries(archive, name, criuimages.CORE_MAGIC, images_pb2.Core)
    found = next(cores, None)
    if found is None:
        raise Corrupt(f"{name} is empty")
    return found


def _thread(core: images_pb2.Thread, *, filtered: bool) -> ThreadRights:
    creds = core.creds
    return ThreadRights(
        users=frozenset((creds.uid, creds.euid, creds.suid, creds.fsuid)),
        groups=frozenset((creds.gid, creds.egid, creds.sgid, creds.fsgid, *creds.groups)),
        held=_bits(creds.cap_eff) | _bits(creds.cap_prm) | _bits(creds.cap_amb),
        inheritable=_bits(creds.cap_inh),
        bounding=_bits(creds.cap_bnd),
        no_new_privileges=bool(creds.no_new_privs),
        keeps_capabilities=bool(creds.secbits & _KEEPS_CAPABILITIES),
        filtered=filtered or core.seccomp_mode != 0,
        label=_label(creds.lsm_profile),
    )


def _bits(words: Iterable[int]) -> int:
    return sum(word << 32 * place for place, word in enumerate(words))


def _shared(archive: ArchiveReader, pid: int) -> frozenset[str]:
    """Return the namespaces of a process that were those of CRIU, which runs in the node's."""
    inventories = criuimages.entries(
        archive, "inventory.img", criuimages.INVENTORY_MAGIC, images_pb2.Inventory
    )
    name = f"ids-{pid}.img"
    kinds = criuimages.entries(archive, name, criuimages.IDS_MAGIC, images_pb2.Namespaces)
    inventory, own = next(inventories, None), next(kinds, None)
    if inventory is None or own is None or not inventory.HasField("root_ids"):
        raise Corrupt(f"inventory.img and {name} do not tell the namespaces")
    return frozenset(
        name
        for name, (field, _) in _NAMESPACES.items()
        if getattr(own, field) == getattr(inventory.root_ids, field)
    )


def _of_proc(task: Path) -> ThreadRights:
    fields = {}
    for line in (task / "status").read_bytes().decode(errors="replace").split("\n"):
        key, _, value = line.partition(":")
        fields[key] = value.split()

    def numbers(*keys: str) -> frozenset[int]:
        return frozenset(int(word) for key in keys for word in fields[key])

    def bits(key: str) -> int:
        return int(fields[key][0], 16)

    return ThreadRights(
        users=numbers("Uid"),
        groups=numbers("Gid", "Groups"),
        held=bits("CapEff") | bits("CapPrm") | bits("CapAmb"),
        inheritable=bits("CapInh"),
        bounding=bits("CapBnd"),
        no_new_privileges=fields["NoNewPrivs"] == ["1"],
        keeps_capabilities=False,  # /proc does not show it; the images will
        filtered=fields.get("Seccomp", ["0"]) != ["0"],
        label=_label(_current(task)),
    )


def _current(task: Path) -> bytes:
    """Return a thread's security label; b"" where the kernel gives none."""
    for name in ("attr/apparmor/current", "attr/current"):
        with contextlib.suppress(OSError):
            return (task / name).read_bytes().rstrip(b"\0\n")
    return b""


def _label(data: bytes) -> str:
    """Return a label without the mode that AppArmor says after it; "" for unconfined."""
    words = data[:_LABEL_BYTES_MAX].decode(errors="replace").split(" ")
    return "" if words[0] == "unconfined" else words[0]
