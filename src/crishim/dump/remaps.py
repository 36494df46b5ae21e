"""Open files whose name was removed while they have others: CRIU links them for its dump only.

It calls such a link `link_remap.N`, beside where the file was, and expects it there at the restore.
So it must become part of what is carried (the layer, volumes of the image, shared memory), although
it is gone before runc returns: a script that CRIU runs at the end of its dump lists them
(`post-dump.sh`), and the archive gets them as further names of files that it has. Every named POSIX
semaphore is such a file: glibc makes it under another name, links it to its own and removes the
first. A file with no name at all is none of this: CRIU keeps its content itself.
Source: criu/files-reg.c and criu/cr-dump.c of CRIU 4.2; sysdeps/pthread/sem_open.c of glibc 2.41.
"""

from __future__ import annotations

import importlib.resources
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crishim.container import shm, volumes
from crishim.errors import Precondition, Unsupported
from crishim.kernel import procs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crishim.container.resolve import Source
    from crishim.dump.workspace import Workspace

_LINE = re.compile(rb"\s*(\d+) \./((?:.*/)?link_remap\.\d+)")


@dataclass(frozen=True, slots=True)
class Place:
    """A directory whose files an archive takes along.

    Attributes:
        destination: where the container has it.
        directory: where it lies on the node.
    """

    destination: str
    directory: Path


def places(source: Source) -> list[Place]:
    """Return all that an archive of a container takes along; the writable layer first."""
    container = source.container
    found = [Place("/", source.layer.upper)]
    found += [
        Place(volume.destination, volume.directory)
        for volume in volumes.of_container(container.spec, container.id)
    ]
    if (shared := shm.directory(container.spec)) is not None:
        found.append(Place(shm.PLACE, shared))
    return found


def check(pids: Sequence[int], carried: Sequence[Place]) -> None:
    """Refuse such files where nothing takes their links along.

    Args: carried: see `places`.
    Raises: Unsupported: names the first one.
    """
    for file in procs.nameless_files(pids):
        if not file.on_root and not any(_lies_in(file, place) for place in carried):
            raise Unsupported(
                f"{procs.title(file.pid)} has {file.path} open, which was removed from a volume "
                "and has other names there",
                hint="close it, or remove its other names",
            )


def _lies_in(file: procs.NamelessFile, place: Place) -> bool:
    inside = file.path.startswith(f"{place.destination.rstrip('/')}/")
    return inside and os.stat(place.directory).st_dev == file.device


def expect(workspace: Workspace, carried: Sequence[Place], pids: Sequence[int]) -> bool:
    """Have the links listed if any file needs one; call it before the pause. Blocks.

    Args: carried: see `places`.
    Returns: whether that is so; `late` tells of files that came to need one since.
    """
    if not procs.nameless_files(pids):
        return False
    script = importlib.resources.files("crishim.dump").joinpath("post-dump.sh")
    copy = workspace.path / "post-dump"
    copy.write_bytes(script.read_bytes())
    copy.chmod(0o700)
    directories = b"".join(b"%s\n" % os.fsencode(place.directory) for place in carried)
    (workspace.path / "places").write_bytes(directories)
    with workspace.criu_config.open("a", encoding="utf-8") as config:
        config.write(f"action-script {copy}\n")
    return True


def late(pids: Sequence[int]) -> None:
    """Refuse, in the pause, what `expect` has not seen. Blocks.

    Raises: Precondition: another attempt will see it.
    """
    for file in procs.nameless_files(pids):
        raise Precondition(
            f"{file.path}, open in {procs.title(file.pid)}, was removed right before the pause",
            hint="try again",
        )


def listed(workspace: Workspace) -> dict[Path, dict[str, int]]:
    """Return the inode of each link that CRIU has made, by its path below each directory."""
    found: dict[Path, dict[str, int]] = {}
    directories = (workspace.path / "places").read_bytes().split(b"\n")[:-1]
    for number, directory in enumerate(directories):
        lines = (workspace.path / f"links.{number}").read_bytes().split(b"\n")
        matches = (_LINE.fullmatch(line) for line in lines)
        links = {os.fsdecode(match[2]): int(match[1]) for match in matches if match}
        found[Path(os.fsdecode(directory))] = links
    return found
