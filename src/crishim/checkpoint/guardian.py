"""A small process that thaws a container when the daemon dies in the middle of its dump.

A daemon killed by SIGKILL undoes nothing itself. So before it freezes anything it starts this
program with a description of the dump on standard input and keeps the pipe open. The word "done"
discharges the guardian; the end of the pipe without it makes it act: let a running CRIU come to its
end (it is never killed: a killed CRIU leaves its parasite in the process), thaw, lift the hold on
connections, remove the half archive.

Only the standard library: it is started by path, isolated, in the few milliseconds before a pause.
The daemon's half is `Guardian`; `main` is the other process.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_POLL_S = 0.02
_TOOL_TIMEOUT_S = 30


class Guardian:
    """The daemon's end: start it before the pause, discharge it after the resume.

    Args:
        dump: directory of the dump; its path stands in the command line of the `runc checkpoint`.
        partial: half archive to remove; once it has its final name nothing is thawed any more.
        runc: argument list of runc up to the verb.
        container: id of the container to thaw.
        netns: path of the pod's network namespace; "" when no hold is set in it.
        table: family and name of the hold's nft table, for instance "netdev crishim_ab12".
    """

    def __init__(
        self, *, dump: Path, partial: Path, runc: list[str], container: str, netns: str, table: str
    ) -> None:
        self._charge = {
            "dump": str(dump),
            "partial": str(partial),
            "runc": runc,
            "container": container,
            "netns": netns,
            "table": table,
        }
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, environment: dict[str, str]) -> None:
        """Start the process; it survives us, in a session of its own."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            __file__,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=None,
            env=environment,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(self._charge).encode() + b"\n")
        await self._process.stdin.drain()

    async def discharge(self) -> None:
        """Tell it that all is well and wait for its end."""
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
    if sys.stdin.buffer.readline() == b"done\n":
        return 0
    _end_dump(Path(charge["dump"]))
    if not os.path.exists(charge["partial"]):
        return 0  # the archive is complete: what follows goes forward, at the daemon's next start
    _call([*charge["runc"], "resume", charge["container"]])
    if charge["table"]:
        _enter(charge["netns"])
        _call(["nft", "delete", "table", *charge["table"].split()])
    with contextlib.suppress(FileNotFoundError):
        os.unlink(charge["partial"])
    return 0


def _end_dump(dump: Path) -> None:
    """Wait for the `runc checkpoint` whose command line names `dump`.

    The daemon read the page FIFOs. CRIU blocks in open() on one that nobody reads, so each is
    opened and closed: CRIU's next write fails, and with it the dump, and the container goes on.
    """
    while _runs(str(dump).encode()):
        for fifo in dump.glob("**/pages-*.img"):
            with contextlib.suppress(OSError):
                if fifo.is_fifo():
                    os.close(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK))
        time.sleep(_POLL_S)


def _runs(path: bytes) -> bool:
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                words = Path(entry.path, "cmdline").read_bytes().split(b"\0")
                if any(word.startswith(path) for word in words):
                    return True
    return False


def _enter(netns: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    if libc.setns(fd, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"cannot enter {netns}")
    os.close(fd)


def _call(argv: list[str]) -> None:
    done = subprocess.run(  # this process has no event loop and no threads
        argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TOOL_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        text = done.stderr.decode(errors="replace").strip()
        print(f"crishim guardian: {' '.join(argv)}: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
