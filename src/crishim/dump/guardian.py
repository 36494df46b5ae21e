"""A small process that thaws a container when the daemon dies in the middle of its dump.

A daemon killed by SIGKILL undoes nothing itself. So before it freezes anything it starts this
program with a description of the dump on standard input and keeps the pipe open. The word "done"
discharges the guardian; the end of the pipe without it makes it act: let a running CRIU come to its
end (it is never killed: a killed CRIU leaves its parasite in the process), thaw, lift the hold on
connections, remove the half archive. With `stop` it does so only if the archive certainly has not
appeared; where nobody can tell, the container stays frozen and the daemon's log says so.

It is started by path, isolated, and is awake before the pause, or its start would take a processor
from CRIU. For the same reason it imports only the standard library and `tools.atwork`, which itself
imports no more, and what is slow (asyncio takes 100 ms) only where it is used. The daemon's half is
`Guardian`; `main` is the other process.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":  # isolated: nothing of ours is to be found
    sys.path.append(os.fspath(Path(__file__).parents[2]))

from crishim.tools.atwork import is_tool, tool_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from typing import Any

_AWAKE = b"awake\n"
_CLONE_NEWNET = 0x40000000
_POLL_S = 0.02
_HALF = "half"


class Guardian:
    """The daemon's end: start it before the pause, discharge it when nothing is half done.

    Args:
        dump: directory of the dump; its path stands in the command line of the `runc checkpoint`.
        partial: half archive to remove.
        target: where it is to appear, if the source is to end then: nothing is thawed any more once
            it is there, or may be. None where the container goes on whatever becomes of it.
        freezer: cgroup directory to thaw.
        hold: `netns`, `family` and `table` of an nft table to delete, None for none.
        locked: descriptors whose locks tell a new daemon that what they lock is still in use; the
            first one is the half archive's.
    """

    def __init__(
        self,
        *,
        dump: Path,
        partial: Path,
        target: Path | None,
        freezer: Path,
        hold: dict[str, str] | None,
        locked: tuple[int, ...],
    ) -> None:
        self._charge = {
            "dump": str(dump),
            "partial": str(partial),
            "target": None if target is None else str(target),
            "freezer": str(freezer),
            "hold": hold,
            "archive": locked[0] if locked else -1,
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

    def check(self) -> None:
        """Raise ChildProcessError if it has ended: nobody would thaw what is frozen from now on."""
        if self._process is None or self._process.returncode is not None:
            raise ChildProcessError("the guardian of the dump has ended")

    async def discharge(self) -> None:
        """Tell it that all is well and wait for its end. Safe to repeat."""
        await self._end(b"done\n")

    async def act(self) -> None:
        """Have it undo what we could not, as if we had died, and wait for its end."""
        await self._end(b"")

    async def _end(self, word: bytes) -> None:
        if self._process is None or self._process.stdin is None:
            return
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._process.stdin.write(word)
            await self._process.stdin.drain()
        self._process.stdin.close()
        await self._process.wait()


def main() -> int:
    """Wait for "done" or the end of the pipe; act in the second case."""
    charge = json.loads(sys.stdin.buffer.readline())
    os.write(sys.stdout.fileno(), _AWAKE)
    if sys.stdin.buffer.readline() == b"done\n":
        return 0
    _end_dump(Path(charge["dump"]))
    if charge["target"] is not None and (why := _may_have_appeared(charge)):
        print(f"crishim guardian: the container stays frozen: {why}", file=sys.stderr)
        return 0  # what follows goes forward, at the daemon's next start
    thawed = _tried(_thaw, charge)
    _tried(_let_go, charge)
    # While the container stays frozen, the half archive is what tells a daemon that it is to go on.
    if thawed:
        _tried(_remove, charge)
    return 0


def _tried(step: Callable[[dict[str, Any]], None], charge: dict[str, Any]) -> bool:
    """Run one step on its own: the container must go on, whatever else fails."""
    try:
        step(charge)
    except Exception as error:  # noqa: BLE001 - see above
        print(f"crishim guardian: {step.__name__[1:]}: {error}", file=sys.stderr)
        return False
    return True


def _may_have_appeared(charge: dict[str, Any]) -> str:
    """Return why the archive may have its final name; "" if it certainly has not.

    Only what is there proves anything. That the half archive's name is gone does not: anybody may
    have removed it; and a file system that fails to answer has not said no.
    """
    with contextlib.suppress(OSError):
        os.lstat(os.path.join(charge["dump"], _HALF))
        return ""  # nobody has tried to give it its name; its disk, which may hang, is not asked
    try:
        own = os.fstat(charge["archive"])
        if _is(own, charge["target"]):
            return f"its checkpoint {charge['target']} is complete"
        if own.st_nlink == 0 or _is(own, charge["partial"]):
            return ""
    except OSError as error:
        return str(error)
    return f"nobody can tell where its checkpoint {charge['target']} is"


def _is(own: os.stat_result, path: str) -> bool:
    try:
        return os.path.samestat(own, os.lstat(path))
    except FileNotFoundError:
        return False


def _thaw(charge: dict[str, Any]) -> None:
    for name, word in (("freezer.state", b"THAWED"), ("cgroup.freeze", b"0")):
        # It is tried rather than looked for: a file that cannot be looked at is no absent one.
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(os.path.join(charge["freezer"], name), os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, word)
            finally:
                os.close(fd)


def _let_go(charge: dict[str, Any]) -> None:
    """Delete the hold's table, in its namespace; it may not be there yet."""
    if hold := charge["hold"]:
        _enter(hold["netns"])
        table = f"{hold['family']} {hold['table']}"
        _nft(f"add table {table}; delete table {table}")


def _remove(charge: dict[str, Any]) -> None:
    if _is(os.fstat(charge["archive"]), charge["partial"]):
        os.unlink(charge["partial"])


def _end_dump(dump: Path) -> None:
    """Wait for the `runc checkpoint` whose command line names `dump`.

    While nobody can look, there may be one: then it is waited for too.
    """
    pid, told = 0, False
    while True:
        try:
            if pid and is_tool(pid, dump):
                unblock(dump)
            elif not (pid := tool_of(dump)):
                return
            else:
                continue
        except OSError as error:
            if not told:
                print(f"crishim guardian: cannot look for CRIU: {error}", file=sys.stderr)
            told = True
        time.sleep(_POLL_S)


def unblock(dump: Path) -> None:
    """Let a CRIU fail whose pages nobody reads any more.

    It blocks in open() on a FIFO that nobody reads, so each is opened and closed: CRIU's next write
    fails, and with it the dump, and the container goes on.
    """
    for directory, _, names in os.walk(dump):
        for fifo in (Path(directory, name) for name in names):
            with contextlib.suppress(OSError):
                if fifo.match("pages-*.img") and fifo.is_fifo():
                    os.close(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK))


def _enter(netns: str) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    if libc.setns(fd, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"cannot enter {netns}")
    os.close(fd)


def _nft(text: str) -> None:
    """Run one transaction of nftables, by the library that the hold was made with."""
    import ctypes

    library = ctypes.CDLL("libnftables.so.1")
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
    context = ctypes.c_void_p(library.nft_ctx_new(0))
    library.nft_ctx_buffer_error(context)
    if library.nft_run_cmd_from_buffer(context, text.encode()) != 0:
        error: bytes = library.nft_ctx_get_error_buffer(context)
        raise OSError(error.decode(errors="replace").strip())


if __name__ == "__main__":
    sys.exit(main())
