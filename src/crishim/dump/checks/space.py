"""Refuse a dump that the disk cannot hold, by an estimate made before anything is touched.

The estimate may be wrong, because the container runs on; a disk that fills up all the same is
found again while the archive's blocks are written, still before the pause.
"""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

from crishim.container import volumes
from crishim.errors import NoSpace
from crishim.kernel import procs
from crishim.kernel.atomic import storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from crishim.container.resolve import Source

_METADATA_BYTES = 1 << 20


def check(source: Source, pids: list[int], target: Path) -> None:
    """Compare the free space where the archive is to appear with what it will need.

    Raises: NoSpace: with both figures. NotFound: there is no such directory.
    """
    with storage_errors(f"cannot write a checkpoint to {target}"):
        status = os.statvfs(target.parent)
    free_bytes = status.f_bavail * status.f_frsize
    needed_bytes = procs.memory_bytes(pids) + _METADATA_BYTES
    if source.log is not None and source.log.exists():
        needed_bytes += source.log.stat().st_size
    # Adding up a large layer takes a while: no longer than until the answer is known.
    own = volumes.of_container(source.container.spec, source.container.id)
    directories = [source.layer.upper, *(volume.directory for volume in own)]
    for file_bytes in itertools.chain.from_iterable(map(_file_sizes, directories)):
        needed_bytes += file_bytes
        if needed_bytes > free_bytes:
            break
    if needed_bytes > free_bytes:
        raise NoSpace(
            f"a checkpoint needs more than {needed_bytes / 1e6:.0f} MB and {target.parent} has "
            f"{free_bytes / 1e6:.0f} MB left",
            hint="free space there, or write to another file system",
        )


def _file_sizes(directory: Path) -> Iterator[int]:
    """Yield the space that each file below a directory takes; what vanishes meanwhile is nothing.

    Nothing is followed: a container that exchanges a directory for a link leads nowhere.
    """
    for _, _, files, fd in os.fwalk(directory, follow_symlinks=False):
        for name in files:
            try:
                yield os.stat(name, dir_fd=fd, follow_symlinks=False).st_blocks * 512
            except FileNotFoundError:
                continue
