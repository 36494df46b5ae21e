"""Is CRIU there, new enough, the same for all who call it, and free to do what we tell it?

Source: criu(8), "configuration files"; runc libcontainer/criu_linux.go (1.3) for runc.conf and the
annotation; criu/kerndat.c (4.2) for the cache in /run.
"""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING

from crishim.doctor.finding import Finding, error, ok, warning
from crishim.errors import CrishimError
from crishim.kernel import mounts, process
from crishim.tools import criu

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

ANNOTATION = "org.criu.config"
_CHECK_TIMEOUT_S = 60.0
_GOOD = (4, 2)
# criu issue 3002: from Linux 7.1 on dumps of any container fail; 3127 for what 7.0 breaks.
_NEW_KERNEL, _GOOD_THERE = 7, (4, 2, 1)
_STALE_S = 30.0
_INSTALL = "install CRIU 4.2 or newer (Debian 14, or criu.org)"
# What we or runc decide for each dump and restore.
_OURS = frozenset(
    (
        *("action-script", "cgroup-root", "ext-unix-sk", "file-locks", "ghost-limit", "images-dir"),
        *("leave-running", "leave-stopped", "link-remap", "log-file", "manage-cgroups", "pidfile"),
        *("network-lock", "root", "shell-job", "skip-in-flight", "stream", "tcp-close"),
        *("tcp-established", "work-dir"),
    )
)


async def version() -> Finding:
    """Look for the program on the PATH that we give to tools, and at its version."""
    try:
        found = await criu.version(container="")
    except CrishimError:
        there = shutil.which("criu", path=process.PATH)
        what = f"{there} is older than 3.16" if there else "no criu is on the PATH"
        return error("criu.version", what, cure=_INSTALL)
    return judge(found, release=os.uname().release)


def judge(found: str, *, release: str) -> Finding:
    """Judge CRIU's version on a kernel of that release."""
    numbers = tuple(int(part) for part in found.split("."))
    if int(release.partition(".")[0]) >= _NEW_KERNEL and numbers < _GOOD_THERE:
        return error(
            "criu.version",
            f"CRIU {found} does not work on Linux {release}: 4.2.1 is the first that does",
            cure="install CRIU 4.2.1 or newer",
        )
    if numbers < _GOOD:
        return warning(
            "criu.version",
            f"CRIU {found}: versions before 4.2 fail on newer kernels, some with TCP sockets, some "
            "with any process",
            cure=_INSTALL,
        )
    return ok("criu.version", f"CRIU {found}")


async def check() -> Finding:
    """Let CRIU try the features of the kernel that it cannot do without."""
    try:
        done = await process.run(["criu", "check"], timeout_s=_CHECK_TIMEOUT_S)
    except CrishimError as problem:
        return error("criu.check", f"`criu check` cannot be run: {problem.brief}", cure=_INSTALL)
    if done.exit_status == 0:
        return ok("criu.check", "`criu check` is content")
    lines = (done.stdout + done.stderr).decode(errors="replace").split("\n")
    errors = [line.partition("): ")[2] for line in lines if line.startswith("Error")]
    return error(
        "criu.check",
        f"`criu check` fails: {'; '.join(errors[-3:]) or f'exit status {done.exit_status}'}",
        cure="run `criu check` by hand; it names the kernel feature or privilege that is missing",
    )


def same_program(containerd_path: str) -> Finding:
    """Compare the criu on our PATH with the one that containerd's shim finds.

    We dump with the first; restores run below the shim and use the second.

    Args: containerd_path: PATH in containerd's environment.
    """
    ours = shutil.which("criu", path=process.PATH)
    theirs = shutil.which("criu", path=containerd_path)
    if theirs is None:
        return error(
            "criu.path",
            f"containerd finds no criu on its PATH ({containerd_path or 'empty'})",
            cure="put criu's directory into the PATH of containerd's service",
        )
    if ours is not None and not os.path.samefile(ours, theirs):
        return error(
            "criu.path",
            f"crishim uses {ours}, containerd {theirs}: an image of one may not suit the other",
            cure="remove one of the two",
        )
    return ok("criu.path", f"crishim and containerd use {theirs}")


def override_file(name: str, path: Path, *, wins: bool) -> Finding:
    """Look at a configuration file that CRIU reads beside ours.

    Args:
        name: id of the finding.
        wins: whether its options beat ours (runc.conf) or only add to them (default.conf).
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ok(name, f"no {path}")
    except OSError as problem:
        return warning(
            name, f"{path} cannot be read: {problem.strerror}", cure="make it a readable file"
        )
    found = _options(text)
    if not found:
        return ok(name, f"{path} sets nothing")
    cure = f"remove {path}, or these lines of it"
    if wins and (ours := sorted(found & _OURS)):
        return error(
            name, f"{path} overrides what crishim tells CRIU: {', '.join(ours)}", cure=cure
        )
    names = ", ".join(sorted(found))
    return warning(name, f"{path} adds options to every dump and restore: {names}", cure=cure)


def _options(text: str) -> frozenset[str]:
    words = (line.partition("#")[0].split() for line in text.split("\n"))
    return frozenset(line[0].lstrip("-") for line in words if line)


def container_annotations(containers: Mapping[str, Mapping[str, str]]) -> Finding:
    """Look for containers that name a CRIU configuration of their own.

    Args: containers: annotations of each container's OCI spec, by id.
    """
    named = [
        f"{container[:13]} ({found})"
        for container, table in containers.items()
        if (found := table.get(ANNOTATION))
    ]
    if named:
        return error(
            "criu.annotation",
            f"the annotation {ANNOTATION} overrides what crishim tells CRIU for: " + _few(named),
            cure="remove the annotation from their pods, or from container_annotations of the "
            "runtime handler in containerd's configuration",
        )
    return ok("criu.annotation", f"no container carries the annotation {ANNOTATION}")


def cache(run: Path, table: Sequence[mounts.Mount], *, now_s: float | None = None) -> Finding:
    """Look at where CRIU remembers what the kernel can do.

    Args: run: CRIU's directory for it, /run. table: our mount table.
    """
    holders = (mounts.mount_at(table, str(path)) for path in (run, *run.parents))
    if next(filter(None, holders)).fs_type != "tmpfs":
        return warning(
            "criu.cache",
            f"{run} is no tmpfs: CRIU examines the kernel anew for each dump and restore, 20 ms",
            cure=f"mount a tmpfs at {run}",
        )
    stale = run / "criu.kdat.tmp"
    try:
        age_s = (time.time() if now_s is None else now_s) - stale.stat().st_mtime
    except FileNotFoundError:
        return ok("criu.cache", f"CRIU remembers in {run} what the kernel can do")
    if age_s < _STALE_S:
        return ok("criu.cache", f"CRIU is writing down what the kernel can do, in {run}")
    return warning(
        "criu.cache",
        f"{stale}, left by a CRIU that was killed, keeps the next ones from remembering what the "
        "kernel can do: 20 ms for each dump and restore",
        cure=f"rm {stale}",
    )


def _few(names: Iterable[str], *, most: int = 5) -> str:
    """Join names for a sentence; more than a few are counted."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
