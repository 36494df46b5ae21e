"""Keep the process ids of a checkpoint free in a pid namespace that a pod's containers share.

A restored process has the id that it had. In a namespace of its own that is always free; in one
that is shared with the pod's other containers it may be taken: for good by one of theirs, which is
refused, or for a moment by a helper of runc or CRIU, which is avoided by letting the namespace
count on from a number above.

Source: pid_namespaces(7), /proc/sys/kernel/ns_last_pid.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crishim.errors import Precondition
from crishim.kernel import process, procs

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

_CORE = re.compile(r"checkpoint/core-(\d+)\.img")
_DISTANCE = 1000
_TIMEOUT_S = 10.0
_FIRST = "restore it first, or into a pod that does not share its pid namespace"
_OWN_NAMESPACE = (
    "the checkpoint's container had a namespace of its own and this one shares its pod's: set "
    "linux.security_context.namespace_options.pid = 1 (CONTAINER) in its configuration"
)


def of_archive(entries: Iterable[str]) -> set[int]:
    """Return the ids that a checkpoint's processes have; from the names of its entries."""
    return {int(match.group(1)) for name in entries if (match := _CORE.fullmatch(name))}


def of_processes(processes: Iterable[int]) -> set[int]:
    """Return the ids that a checkpoint of processes would have; those that are gone have none."""
    return set().union(*map(procs.thread_ids_inside, processes))


async def make_room(spec: dict[str, Any], wanted: Collection[int]) -> None:
    """Make sure that the processes of a checkpoint will find their ids free.

    Args: spec: OCI spec of the new container. wanted: the ids.
    Raises: Precondition: another process of the pod has one of the ids.
    """
    namespace = _shared_namespace(spec)
    if namespace is None or not wanted:
        return
    if taken := sorted(_ids_in(namespace).intersection(wanted)):
        raise Precondition(
            f"process id {taken[0]} of the checkpoint is taken in the pod's pid namespace",
            hint=_OWN_NAMESPACE if taken[0] == 1 else _FIRST,
        )
    last = max(wanted) + _DISTANCE
    if last < int(Path("/proc/sys/kernel/pid_max").read_text(encoding="ascii")):
        script = 'echo "$1" > /proc/sys/kernel/ns_last_pid'
        await process.check(
            ["nsenter", f"--pid={namespace}", "sh", "-c", script, "sh", str(last)],
            timeout_s=_TIMEOUT_S,
        )


def _shared_namespace(spec: dict[str, Any]) -> str | None:
    for namespace in spec.get("linux", {}).get("namespaces", []):
        if namespace.get("type") == "pid":
            return namespace.get("path") or None
    return None


def _ids_in(namespace: str) -> set[int]:
    """Return the ids, inside a pid namespace, of all threads in it."""
    inode = os.stat(namespace).st_ino
    found: set[int] = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{entry}/ns/pid").st_ino == inode:
                    found |= procs.thread_ids_inside(int(entry))
    return found
