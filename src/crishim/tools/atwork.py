"""Find the runc or CRIU that works in a directory, whoever has started it.

Only the standard library: `dump/guardian.py`, which must be awake at once, calls it too.
"""

from __future__ import annotations

import os
from pathlib import Path

_TOOLS = {b"runc", b"criu"}
_OPTION = b"--work-path"


def tool_of(directory: Path) -> int:
    """Return the id of a runc or CRIU with a path below `directory` in its command line; 0 if none.

    It looks through all processes of the node: `is_tool` tells as long as this one lives. Blocks.
    Raises: OSError: one is there, and cannot be looked at.
    """
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid() and is_tool(int(name), directory):
            return int(name)
    return 0


def is_tool(pid: int, directory: Path) -> bool:
    """Return whether a process is a runc or CRIU that works on something below `directory`.

    containerd's configuration may give runc any name, so it is known by the option that a dump and
    a restore have; CRIU itself names no directory, and its runc waits for it.
    It runs beside us: what a container's process writes into its own command line says nothing.
    Raises: OSError: it is there, and cannot be looked at.
    """
    path = os.fsencode(directory)
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
    tools = {os.path.basename(word) for word in words[:2]}
    if not (tools & _TOOLS or _OPTION in words) or not any(_is_below(w, path) for w in words):
        return False
    try:
        return os.path.samestat(os.stat(f"/proc/{pid}/ns/pid"), os.stat("/proc/self/ns/pid"))
    except (FileNotFoundError, ProcessLookupError):
        return False


def _is_below(word: bytes, path: bytes) -> bool:
    return word == path or word.startswith(path + b"/")
