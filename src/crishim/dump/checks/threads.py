"""Find threads that a restore could not make again as they were, before anything is touched.

A Landlock domain is gone after a restore: CRIU does not know it, and a sandbox that comes back open
is a hole. The kernel shows nobody from outside whether a thread has one: no file of /proc, no
fdinfo, no ioctl, and the audit log speaks only of what was denied. What it shows is a condition:
without CAP_SYS_ADMIN only a thread that has given up new privileges (no_new_privs) may restrict
itself. So, where the kernel has Landlock:

    no_new_privs by the specification      says nothing: see docs/limits.md
    by the thread itself                   a warning: servers do so for no other reason than to be
                                           careful (HAProxy), and seccomp asks for it too

Source: landlock_restrict_self(2), seccomp(2), proc_pid_status(5); criu/cr-restore.c of CRIU 4.2.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crishim.container.unkept import named
from crishim.errors import Unsupported
from crishim.kernel import procs, scheduling
from crishim.losses import Kind, Loss

if TYPE_CHECKING:
    from collections.abc import Sequence

_LANDLOCK_CREATE_RULESET, _ABI_VERSION = 444, 1
_FIELD = re.compile(rb"^(NoNewPrivs|Seccomp_filters):\t(\d+)$", re.MULTILINE)
_RESTORED_POLICIES = (os.SCHED_OTHER, os.SCHED_FIFO, os.SCHED_RR, os.SCHED_BATCH, os.SCHED_IDLE)


def check(spec: dict[str, Any], pids: Sequence[int]) -> list[Loss]:
    """Look at all threads of a container. Blocks.

    Args: spec: its OCI runtime specification.
    Returns: what may be lost.
    Raises: Unsupported: names the first process that cannot be restored as it was.
    """
    landlock = _kernel_has_landlock()
    losses: dict[int, Loss] = {}
    for pid in pids:
        for tid in scheduling.threads(pid):
            _refuse_policy(pid, tid)
            if landlock and pid not in losses and (how := _gave_up_privileges(spec, pid, tid)):
                losses[pid] = _may_be_confined(pid, how)
    return list(losses.values())


def _gave_up_privileges(spec: dict[str, Any], pid: int, tid: int) -> str:
    """Say what a thread that has set no_new_privs itself is seen to have done; "" for nothing."""
    ours = _confinement("/proc/self/status")  # a container around the node gives its own to all
    if spec.get("process", {}).get("noNewPrivileges") or ours.get(b"NoNewPrivs"):
        return ""
    its = _confinement(f"/proc/{pid}/task/{tid}/status")
    if not its.get(b"NoNewPrivs"):
        return ""
    given = ours.get(b"Seccomp_filters", 0) + bool(spec.get("linux", {}).get("seccomp"))
    if its.get(b"Seccomp_filters", 0) > given:
        return "has confined itself by seccomp, which is kept; if it did so by Landlock too, that"
    return "has given up new privileges itself, which is kept; if it did so for Landlock, that"


def _confinement(status: str) -> dict[bytes, int]:
    with contextlib.suppress(OSError):
        return {name: int(value) for name, value in _FIELD.findall(Path(status).read_bytes())}
    return {}


def _may_be_confined(pid: int, how: str) -> Loss:
    return Loss(
        kind=Kind.CONFINEMENT,
        pid=procs.id_inside(pid),
        what=f"{named(pid)} {how} confinement is gone after a restore",
        cure="the kernel does not tell; see the program's documentation",
    )


def _refuse_policy(pid: int, tid: int) -> None:
    try:
        policy = os.sched_getscheduler(tid) & ~scheduling.RESET_ON_FORK
    except ProcessLookupError:
        return
    if policy not in _RESTORED_POLICIES:
        raise Unsupported(
            f"{procs.title(pid)} has scheduling policy {policy} (such as SCHED_DEADLINE), which "
            "CRIU dumps and cannot restore",
            hint="give it an ordinary policy first",
        )


def _kernel_has_landlock() -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.syscall(_LANDLOCK_CREATE_RULESET, None, 0, _ABI_VERSION) > 0)
