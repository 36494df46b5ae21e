"""An independent look at a directory tree: what a process inside would see, nothing of ours."""

import os
import stat
from pathlib import Path


def view(root: Path) -> dict[str, dict[str, object]]:
    """Describe everything below `root` by its path."""
    found = {".": describe(str(root))}
    inodes: dict[int, list[str]] = {}
    for directory, names, files in os.walk(root, followlinks=False):
        for name in names + files:
            path = os.path.join(directory, name)
            key = os.path.relpath(path, root)
            found[key] = describe(path)
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                inodes.setdefault(os.lstat(path).st_ino, []).append(key)
    for names in inodes.values():
        for name in names:
            found[name]["same_file"] = sorted(names)
    return found


def describe(path: str) -> dict[str, object]:
    """Describe one entry: kind, owner, mode, time, attributes, content, holes."""
    status = os.lstat(path)
    facts: dict[str, object] = {
        "mode": oct(status.st_mode),
        "owner": (status.st_uid, status.st_gid),
        "mtime_ns": status.st_mtime_ns,
        "device": status.st_rdev,
        "xattrs": {
            name: os.getxattr(path, name, follow_symlinks=False)
            for name in os.listxattr(path, follow_symlinks=False)
            if not name.startswith("trusted.overlay.")
        },
    }
    if stat.S_ISLNK(status.st_mode):
        facts["target"] = os.readlink(path)
    if stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            facts["size"] = status.st_size
            facts["content"] = file.read()
            facts["extents"] = extents(file.fileno(), status.st_size)
    return facts


def extents(fd: int, size: int) -> list[tuple[int, int]]:
    """Return where a file has data."""
    found = []
    position = 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError:
            break
        position = os.lseek(fd, start, os.SEEK_HOLE)
        found.append((start, position))
    return found
