"""Run external programs: built environment, deadline, bounded output, nothing left behind.

This module must never know what a program does. Two kinds of calls exist: `run` ends the program's
process group when the deadline passes or the caller is cancelled; with `never_kill` (a dump or a
restore, where a killed CRIU leaves its parasite in the process) it waits for the end all the same
and only then lets the cancellation go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crishim.errors import DeadlineExceeded, Precondition, ToolFailed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OUTPUT_CAP_BYTES = 1 << 20
_GRACE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """What a program left: exit status, output (cut at 1 MiB)."""

    exit_status: int
    stdout: bytes
    stderr: bytes


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Build a child's environment: PATH, HOME, LANG and what `extra` names.

    Ours is not inherited: runc changes its behaviour under NOTIFY_SOCKET and LISTEN_FDS, and tools
    translate messages under LC_*.
    """
    return {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", **(extra or {})}


async def run(
    argv: Sequence[str],
    *,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    never_kill: bool = False,
) -> Completed:
    """Run a program to its end and return what it left, whatever its exit status.

    Args:
        argv: the program and its arguments; the program is found by our own PATH.
        timeout_s: deadline, > 0; not used with `never_kill`.
        env: additions to the built environment.
        stdin: bytes for its standard input; None gives /dev/null.
        never_kill: wait for the end whatever happens; see the module's docstring.
    Raises:
        Precondition: there is no such program.
        DeadlineExceeded: the deadline passed; the process group has ended.
    On cancel: the process group is ended first (with `never_kill`: waited for).
    """
    spawning = asyncio.ensure_future(
        _spawn(argv, env=environment(env), with_stdin=stdin is not None)
    )
    try:
        process = await asyncio.shield(spawning)
    except asyncio.CancelledError:
        process = await spawning
        await _finish(process, never_kill=never_kill)
        raise
    talking = asyncio.ensure_future(_talk(process, stdin))
    try:
        async with asyncio.timeout(None if never_kill else timeout_s):
            stdout, stderr = await asyncio.shield(talking)
    except (asyncio.CancelledError, TimeoutError) as error:
        await _finish(process, never_kill=never_kill)
        await talking
        if isinstance(error, TimeoutError):
            raise DeadlineExceeded(f"{argv[0]} did not end within {timeout_s:g} s") from None
        raise
    status = process.returncode
    assert status is not None
    return Completed(exit_status=status, stdout=stdout, stderr=stderr)


async def check(argv: Sequence[str], *, timeout_s: float, stdin: bytes | None = None) -> bytes:
    """Run a program that must succeed and return its output; raise ToolFailed otherwise."""
    done = await run(argv, timeout_s=timeout_s, stdin=stdin)
    if done.exit_status != 0:
        text = done.stderr.decode(errors="replace").strip()
        raise ToolFailed(os.path.basename(argv[0]), done.exit_status, details=text[-2000:])
    return done.stdout


async def _spawn(
    argv: Sequence[str], *, env: Mapping[str, str], with_stdin: bool
) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE if with_stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=env,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise Precondition(f"{argv[0]} is not installed", hint="see `crishim doctor`") from error


async def _talk(process: asyncio.subprocess.Process, stdin: bytes | None) -> tuple[bytes, bytes]:
    async def feed() -> None:
        assert process.stdin is not None and stdin is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            process.stdin.write(stdin)
            await process.stdin.drain()
        process.stdin.close()

    assert process.stdout is not None and process.stderr is not None
    async with asyncio.TaskGroup() as group:
        if stdin is not None:
            group.create_task(feed())
        stdout = group.create_task(_read(process.stdout))
        stderr = group.create_task(_read(process.stderr))
    await process.wait()
    return stdout.result(), stderr.result()


async def _read(stream: asyncio.StreamReader) -> bytes:
    kept = bytearray()
    while data := await stream.read(1 << 16):
        kept += data[: _OUTPUT_CAP_BYTES - len(kept)]
    return bytes(kept)


async def _finish(process: asyncio.subprocess.Process, *, never_kill: bool) -> None:
    """Bring a program to its end, shielded from further cancellations by its caller's handling."""
    if not never_kill:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, sign)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GRACE_S):
                    await process.wait()
                    break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # children that the leader has left behind
    await process.wait()
