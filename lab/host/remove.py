"""Recursive deletes that cannot leave the tree they were given.

They stay on one file system and refuse a tree with mounts in it: a bind mount forgotten by an
ended process must not cost the machine its files.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from lab.errors import LabError


def mounts() -> list[tuple[Path, str]]:
    """Return mount point and file system type of what this process sees, later over earlier."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), before.split(" ")[4])
        found.append((Path(point), after.split(" ")[0]))
    return found


def file_system_type(path: Path) -> str:
    """Return the type of the file system that a path, which may not exist yet, would be on."""
    real = path.resolve()
    over = [(len(at.parts), kind) for at, kind in mounts() if at == real or at in real.parents]
    return max(over, key=lambda each: each[0])[1]


def remove_tree(tree: Path) -> None:
    """Delete a directory tree; do nothing if it does not exist.

    Raises: LabError: something is mounted at or below it, or it spans file systems; nothing of
        the part behind the border is deleted.
    """
    try:
        top = tree.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(top.st_mode):
        raise LabError(f"{tree}: not a directory, not deleted")
    real = tree.resolve()
    for point, _ in mounts():
        if point == real or real in point.parents:
            raise LabError(f"{point} is mounted: {tree} is not deleted")
    parent_fd = os.open(tree.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _remove(parent_fd, tree.name, top.st_dev)
    finally:
        os.close(parent_fd)


def _remove(parent_fd: int, name: str, device: int) -> None:
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent_fd)
    try:
        if os.fstat(fd).st_dev != device:
            raise LabError(f"{name} is on another file system: not deleted")
        with os.scandir(fd) as entries:
            children = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for child, is_directory in children:
            if is_directory:
                _remove(fd, child, device)
            else:
                os.unlink(child, dir_fd=fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=parent_fd)
