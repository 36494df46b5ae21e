"""A small process that thaws a container when the daemon dies in the middle of its dump.

A daemon killed by SIGKILL undoes nothing itself. So before it freezes anything it starts this
program with a description of the dump on standard input and keeps the pipe open. The word "done"
discharges the guardian; the end of the pipe without it makes it act: let a running CRIU come to its
end (it is never killed: a killed CRIU leaves its parasite in the process), thaw, lift the hold on
connections, remove the half archive.

Only the standard library: it is started by path, isolated, and is awake before the pause, or its
start would take a processor from CRIU. For the same reason it imports what is slow (asyncio takes
100 ms) only where it is used. The daemon's half is `Guardian`; `main` is the other process.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

_AWAKE = b"awake\n"
_CLONE_NEWNET = 0x40000000
_POLL_S = 0.02
_TOOLS = {b"runc", b"criu"}
_TOOL_TIMEOUT_S = 30


class Guardian:
    """The daemon's end: start it before the pause, discharge it when nothing is half done.

    Args:
        dump: directory of the dump; its path stands in the command line of the `runc checkpoint`.
        partial: half archive to remove; once it has its final name nothing is thawed any more.
        freezer: cgroup directory to thaw.
        netns: path of the pod's network namespace; "" when no hold is set in it.
        table: family and name of the hold's nft table, for instance "netdev crishim_ab12".
        locked: descriptors whose locks tell a new daemon that what they lock is still in use.
    """

    def __init__(
        self,
        *,
        dump: Path,
        partial: Path,
        freezer: Path,
        netns: str,
        table: str,
        locked: tuple[int, ...],
    ) -> None:
        self._charge = {
            "dump": str(dump),
            "partial": str(partial),
            "freezer": str(freezer),
            "netns": netns,
            "table": table,
        }
        self._locked = locked
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, environment: dict[str, str]) -> None:
        """Start the process and wait until it is awake; it survives us, in a session of its own.

        Raises: ChildProcessError: it ended at once.
        """
        import asyncio

        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            __file__,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=None,
            env=environment,
            start_new_session=True,
            pass_fds=self._locked,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(self._charge).encode() + b"\n")
        await self._process.stdin.drain()
        if await self._process.stdout.readline() != _AWAKE:
            raise ChildProcessError("the guardian of the dump did not start")

    async def discharge(self) -> None:
        """Tell it that all is well and wait for its end. Safe to repeat."""
        if self._process is None or self._process.stdin is None:
            return
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._process.stdin.write(b"done\n")
            await self._process.stdin.drain()
        self._process.stdin.close()
        await self._process.wait()


def main() -> int:
    """Wait for "done" or the end of the pipe; act in the second case."""
    charge = json.loads(sys.stdin.buffer.readline())
    os.write(sys.stdout.fileno(), _AWAKE)
    if sys.stdin.buffer.readline() == b"done\n":
        return 0
    import subprocess

    _end_dump(Path(charge["dump"]))
    if not os.path.exists(charge["partial"]):
        return 0  # the archive is complete: what follows goes forward, at the daemon's next start
    # Each step on its own: the container must go on, whatever else fails.
    for step in (_thaw, _let_go, _remove):
        try:
            step(charge)
        except (OSError, subprocess.SubprocessError) as error:
            print(f"crishim guardian: {step.__name__[1:]}: {error}", file=sys.stderr)
    return 0


def _thaw(charge: dict[str, str]) -> None:
    state, word = Path(charge["freezer"], "freezer.state"), "THAWED"
    if not state.exists():
        state, word = Path(charge["freezer"], "cgroup.freeze"), "0"
    if state.exists():
        state.write_text(word, encoding="ascii")


def _let_go(charge: dict[str, str]) -> None:
    if charge["table"]:
        _enter(charge["netns"])
        _call(["nft", "delete", "table", *charge["table"].split()])


def _remove(charge: dict[str, str]) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(charge["partial"])


def _end_dump(dump: Path) -> None:
    """Wait for the `runc checkpoint` whose command line names `dump`."""
    while pid := tool_of(dump):
        while is_tool(pid, dump):
            unblock(dump)
            time.sleep(_POLL_S)


def unblock(dump: Path) -> None:
    """Let a CRIU fail whose pages nobody reads any more.

    It blocks in open() on a FIFO that nobody reads, so each is opened and closed: CRIU's next write
    fails, and with it the dump, and the container goes on.
    """
    for fifo in dump.glob("**/pages-*.img"):
        with contextlib.suppress(OSError):
            if fifo.is_fifo():
                os.close(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK))


def tool_of(directory: Path) -> int:
    """Return the id of a runc or CRIU with a path below `directory` in its command line; 0 if none.

    It looks through all processes of the node: `is_tool` tells as long as this one lives.
    """
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid() and is_tool(int(name), directory):
            return int(name)
    return 0


def is_tool(pid: int, directory: Path) -> bool:
    """Return whether a process is a runc or CRIU that works on something below `directory`.

    Raises: OSError: it is there, and cannot be looked at.
    """
    path = os.fsencode(directory)
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
    tools = {os.path.basename(word) for word in words[:2]}
    return bool(tools & _TOOLS) and any(word.startswith(path) for word in words)


def _enter(netns: str) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    if libc.setns(fd, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"cannot enter {netns}")
    os.close(fd)


def _call(argv: list[str]) -> None:
    import subprocess

    done = subprocess.run(  # this process has no event loop and no threads
        argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TOOL_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        text = done.stderr.decode(errors="replace").strip()
        print(f"crishim guardian: {' '.join(argv)}: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
