"""Open files whose name was removed while they have others: CRIU links them for its dump only.

It calls such a link `link_remap.N`, beside where the file was, and expects it there at the restore.
So it must become part of the layer, although it is gone before runc returns: a script that CRIU
runs at the end of its dump lists them (`post-dump.sh`), and the layer gets them as further names of
files that it has. A file with no name at all is none of this: CRIU keeps its content itself.
Source: criu/files-reg.c and criu/cr-dump.c of CRIU 4.2.
"""

from __future__ import annotations

import importlib.resources
import os
import re
from typing import TYPE_CHECKING

from crishim.errors import Precondition, Unsupported
from crishim.kernel import procs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from crishim.checkpoint.workspace import Workspace

_LINE = re.compile(rb"\s*(\d+) \./((?:.*/)?link_remap\.\d+)")


def check(pids: Sequence[int]) -> None:
    """Refuse such files outside the root file system, where no layer takes their links along.

    Raises: Unsupported: names the first one.
    """
    for file in procs.nameless_files(pids):
        if not file.on_root:
            raise Unsupported(
                f"{procs.title(file.pid)} has {file.path} open, which was removed from a volume "
                "and has other names there",
                hint="close it, or remove its other names",
            )


def expect(workspace: Workspace, upper: Path, pids: Sequence[int]) -> bool:
    """Have the links listed if any file needs one; call it before the pause. Blocks.

    Returns: whether that is so; `late` tells of files that came to need one since.
    """
    if not procs.nameless_files(pids):
        return False
    script = importlib.resources.files("crishim.checkpoint").joinpath("post-dump.sh")
    copy = workspace.path / "post-dump"
    copy.write_bytes(script.read_bytes())
    copy.chmod(0o700)
    (workspace.path / "upper").write_text(f"{upper}\n", encoding="utf-8")
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


def listed(workspace: Workspace) -> dict[str, int]:
    """Return the inode of each link that CRIU has made, by its path below the upper directory."""
    lines = (workspace.path / "links").read_bytes().splitlines()
    found = (_LINE.fullmatch(line) for line in lines)
    return {os.fsdecode(match[2]): int(match[1]) for match in found if match}
