"""Refuse a dump that cannot work, before anything is touched: one sentence, with the cure.

What CRIU would find out after the freeze is looked for here first. Everything that this module
lets pass is meant to work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crishim.checkpoint import describe
from crishim.checkpoint.flow import in_thread
from crishim.errors import Precondition, Unsupported
from crishim.kernel import procs

if TYPE_CHECKING:
    from crishim.checkpoint.dump import DumpRequest
    from crishim.checkpoint.resolve import Source


async def check(source: Source, request: DumpRequest, *, pids: list[int]) -> None:
    """Look at a running container.

    Args: pids: all processes in its cgroup.
    Raises: Precondition, Unsupported: the first reason found.
    """
    _terminal(source)
    _users(source)
    _neighbours(source, request)
    files = await in_thread(procs.open_files, pids)
    _files(files)
    _sessions(source, pids)


def _terminal(source: Source) -> None:
    if source.container.spec.get("process", {}).get("terminal"):
        raise Unsupported(
            "the container has a terminal, whose other end lies outside it",
            hint="run it without tty: true",
        )


def _users(source: Source) -> None:
    """Refuse what could be dumped and never restored.

    CRIU makes a user namespace of its own, from which it may not enter the network namespace that
    belongs to the pod's.
    """
    if describe.has_user_namespace(source.container.spec):
        raise Unsupported(
            "the container's pod has a user namespace of its own, which CRIU cannot restore into",
            hint="run the pod without hostUsers: false",
        )


def _neighbours(source: Source, request: DumpRequest) -> None:
    if request.stop and source.neighbours:
        raise Unsupported(
            f"{source.neighbours} other containers of the pod are running, and stopping this one "
            "would hold their connections too",
            hint="checkpoint it without stopping it",
        )


def _files(files: procs.OpenFiles) -> None:
    if files.io_uring:
        raise Unsupported(f"process {files.io_uring[0]} uses io_uring, which CRIU cannot dump")
    for terminal, pid in files.terminals.items():
        raise Precondition(
            f"process {pid} ({procs.command(pid)}) has the terminal {terminal} open",
            hint="end that session first",
        )


def _sessions(source: Source, pids: list[int]) -> None:
    """Refuse while an exec session is open: its parent and its pipes lie outside."""
    inside = set(pids)
    for pid in pids:
        if pid != source.container.pid and (parent := procs.parent(pid)) and parent not in inside:
            raise Precondition(
                f"process {pid} ({procs.command(pid)}) was started in the container by an exec "
                "session that is still open",
                hint="end that session first",
            )
