"""Is there room for checkpoints, and are our directories as the runtime wrapper needs them?"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from crishim.doctor.finding import Finding, error, ok, warning
from crishim.kernel import files
from crishim.restore import plans

if TYPE_CHECKING:
    from pathlib import Path

    from crishim.paths import Paths

_SCARCE_BYTES = 2 << 30
_FULL_BYTES = 64 << 20


def space(paths: Paths, *, free_bytes: int | None = None) -> Finding:
    """Look at the free space where checkpoints are stored.

    Args: free_bytes: in place of what the file system says.
    """
    place = _existing(paths.store)
    if free_bytes is None:
        facts = os.statvfs(place)
        free_bytes = facts.f_bavail * facts.f_frsize
    cure = "remove checkpoints (crishim list, crishim rm), or give the file system more room"
    text = f"{free_bytes / 1e9:.1f} GB are free in {place}"
    if free_bytes < _FULL_BYTES:
        return error("store.space", f"no room for checkpoints: {text}", cure=cure)
    if free_bytes < _SCARCE_BYTES:
        return warning("store.space", f"little room for checkpoints: {text}", cure=cure)
    return ok("store.space", text)


def safety(paths: Paths) -> Finding:
    """Look whether anybody else may write where checkpoints lie: a checkpoint is code."""
    writable = [
        f"{path} {stat.S_IMODE(status.st_mode):04o}"
        for path in (paths.state, paths.store, paths.restores)
        if path.exists()
        and ((status := path.stat()).st_mode & 0o022 or status.st_uid != os.geteuid())
    ]
    if writable:
        return error(
            "store.safety",
            f"others than root may change checkpoints: {', '.join(writable)}",
            cure="chown root: and chmod go-w these directories; trust none of the checkpoints",
        )
    return ok("store.safety", f"{paths.state} can be written by root alone")


def wrappers(paths: Paths) -> Finding:
    """Look whether each restored container's wrapper can still be executed by its shim."""
    place = _existing(paths.restores)
    if os.statvfs(place).f_flag & os.ST_NOEXEC:
        return error(
            "wrapper.directories",
            f"the file system of {place} forbids programs (noexec): restored containers cannot "
            "be started or stopped",
            cure=f"mount it without noexec, or set [paths] state elsewhere than {paths.state}",
        )
    broken = [
        f"{directory.name[:13]} ({what})"
        for directory in files.entries(paths.restores)
        if (what := _damage(directory))
    ]
    if broken:
        return error(
            "wrapper.directories",
            f"restored containers that cannot be stopped any more: {', '.join(broken)}",
            cure="systemctl restart crishim: it puts them back; or end their processes by hand",
        )
    return ok("wrapper.directories", "the wrappers of restored containers are in order")


def _damage(directory: Path) -> str:
    """Say what is wrong with the directory of one restored container; "" for nothing."""
    wrapper, named = directory / plans.WRAPPER, directory / "runc"
    if not wrapper.exists() and not named.exists():
        return ""  # a restore that is being prepared, or was refused
    if not os.access(wrapper, os.X_OK):
        return f"{plans.WRAPPER} is missing or not executable"
    try:
        runc = named.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return "the path of its runc is missing"
    if runc.startswith("/") and not os.access(runc, os.X_OK):
        return f"its runc {runc} is gone"
    return ""


def _existing(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if place.exists())
