"""Tell CRIU the paths of what a container watches by inotify.

The kernel names a watched file by its inode. CRIU 4.2 finds its path by a file handle, which an
overlay does not give, or else by looking into a few directories and those it is told of. So the
paths are looked for here, before the pause, and CRIU finds each at its first look.
Source: criu/fsnotify.c and criu/irmap.c of CRIU 4.2; proc_pid_fdinfo(5).
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING

from crishim.kernel import procs

if TYPE_CHECKING:
    from collections.abc import Collection

_ENTRIES_MAX = 2_000_000
_PLAIN = re.compile(r"[^\s\"'#\\]+")
"""What a CRIU configuration file takes as one word."""


def criu_config(pid: int, pids: Collection[int]) -> str:
    """Return the CRIU options that make watches of a running container dumpable; blocks.

    What is not found, or is watched only later, is for CRIU to refuse.

    Args: pid: the container's first process. pids: all of them.
    """
    root = f"/proc/{pid}/root/."  # the link itself would not be walked
    with contextlib.suppress(FileNotFoundError):
        device = os.stat(root).st_dev
        wanted = procs.watched_inodes(pids, device=device)
        found = paths(root, wanted) if wanted else []
        # CRIU looks below each path too before it takes the next one: what is inside comes first.
        found.sort(key=len, reverse=True)
        return "".join(f"irmap-scan-path {path}\n" for path in found if _PLAIN.fullmatch(path))
    return ""


def paths(root: str, inodes: Collection[int]) -> list[str]:
    """Return a path below `root`, on the same file system, for each inode that is found.

    Nothing is followed: a container that exchanges a directory for a link leads nowhere.
    """
    missing = set(inodes)
    status = os.stat(root)
    found = ["/."] if status.st_ino in missing else []  # CRIU cannot look at "/"
    missing.discard(status.st_ino)
    seen = 0
    for directory, directories, files, fd in os.fwalk(root, follow_symlinks=False):
        if not missing or seen > _ENTRIES_MAX:
            break
        seen += len(directories) + len(files)
        here = directory.removeprefix(root)
        inside = set()
        for name in (*directories, *files):
            with contextlib.suppress(FileNotFoundError):
                entry = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if entry.st_dev != status.st_dev:
                    continue
                inside.add(name)
                if entry.st_ino in missing:
                    missing.discard(entry.st_ino)
                    found.append(f"{here}/{name}")
        directories[:] = [name for name in directories if name in inside]
    return found
