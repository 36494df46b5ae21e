"""What processes hold by a name: descriptors, directories, programs and mappings, from /proc.

A process may end, or close a file, at any moment; what was gone by then counts as nothing. All
raise Precondition where a process is there and cannot be looked into.
Source: proc_pid_fd(5), proc_pid_fdinfo(5), proc_pid_maps(5), unix(7).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crishim.kernel.procs import looking_into, nested_ids, open_links

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_MAPPING = re.compile(rb"^(\S+) \S+ \S+ \S+ [1-9]\d* +(/.*)$", re.MULTILINE)
_LINE_FEED = re.compile(r"\\012")
_SOCKET = re.compile(r"socket:\[(\d+)\]")
_UNNAMED = ("socket:[", "pipe:[")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLink:
    """One thing that a process holds.

    Attributes:
        what: for people, such as "descriptor 4" or "working directory".
        link: in /proc, which leads to the very thing.
        target: what the link says.
        flags: it was opened with; 0 where the kernel does not tell.
        mount_id: of the mount that it lies on; -1 where the kernel does not tell.
        process: a descriptor of a process: that process's id, -1 if it is gone; 0 for all others.
    """

    what: str
    link: str
    target: str
    flags: int = 0
    mount_id: int = -1
    process: int = 0

    @property
    def writable(self) -> bool:
        """Whether it was opened for writing."""
        return self.flags & os.O_ACCMODE != os.O_RDONLY


def of_process(pid: int) -> Iterator[OpenLink]:
    """Yield what a process holds, but for sockets and pipes; a file mapped many times once."""
    yield from _descriptors(pid)
    for name, what in (
        ("cwd", "working directory"),
        ("root", "root directory"),
        ("exe", "program"),
    ):
        link = f"/proc/{pid}/{name}"
        with looking_into(pid):
            yield OpenLink(what=what, link=link, target=os.readlink(link))
    yield from _mappings(pid)


def bound_sockets(pid: int, pids: Collection[int]) -> list[tuple[int, str]]:
    """Return the absolute paths to which UNIX sockets of processes are bound, with a process each.

    Args: pid: one of them, in whose network namespace all are looked for.
    """
    owners: dict[str, int] = {}
    for owner in pids:
        for _, target in open_links(owner):
            if match := _SOCKET.fullmatch(target):
                owners.setdefault(match[1], owner)
    found = []
    with looking_into(pid):
        for line in Path(f"/proc/{pid}/net/unix").read_bytes().split(b"\n")[1:]:
            fields = os.fsdecode(line).split(maxsplit=7)
            if len(fields) == 8 and fields[7].startswith("/") and fields[6] in owners:
                found.append((owners[fields[6]], fields[7]))
    return found


def ids_inside(pids: Collection[int]) -> frozenset[int]:
    """Return the ids that processes have in pid namespaces below ours, or in ours if in none."""
    found: set[int] = set()
    for pid in pids:
        with looking_into(pid):
            ids = nested_ids(Path(f"/proc/{pid}"))
            found.update(ids[1:] or ids)
    return frozenset(found)


def _descriptors(pid: int) -> Iterator[OpenLink]:
    for name, target in open_links(pid):
        if target.startswith(_UNNAMED):
            continue
        with looking_into(pid):
            text = Path(f"/proc/{pid}/fdinfo/{name}").read_bytes().decode("ascii", "replace")
            info = dict(line.partition(":")[::2] for line in text.split("\n"))
            yield OpenLink(
                what=f"descriptor {name}",
                link=f"/proc/{pid}/fd/{name}",
                target=target,
                flags=int(info.get("flags", "0"), 8),
                mount_id=int(info.get("mnt_id", "-1")),
                process=int(info.get("Pid", "0")),
            )


def _mappings(pid: int) -> Iterator[OpenLink]:
    seen: set[bytes] = set()
    with looking_into(pid):
        maps = Path(f"/proc/{pid}/maps").read_bytes()
        for addresses, path in _MAPPING.findall(maps):
            if path not in seen:
                seen.add(path)
                yield OpenLink(
                    what="mapping",
                    link=f"/proc/{pid}/map_files/{addresses.decode()}",
                    target=_LINE_FEED.sub("\n", os.fsdecode(path)),
                )
