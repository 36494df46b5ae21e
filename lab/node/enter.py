"""Run commands inside a node, or in the lab's network namespace on the machine's own files."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import IO, TYPE_CHECKING, NoReturn

from lab.errors import LabError
from lab.host import cgroups, syscalls
from lab.node.boot import NODE_ENV
from lab.node.nodes import find_node

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lab.settings import Settings

_NAMESPACES = {
    "cgroup": syscalls.CLONE_NEWCGROUP,
    "ipc": syscalls.CLONE_NEWIPC,
    "uts": syscalls.CLONE_NEWUTS,
    "net": syscalls.CLONE_NEWNET,
    "mnt": syscalls.CLONE_NEWNS,  # last: the others are found through the machine's /proc
}
_FORWARDED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
)
_NOT_FOUND = 127


def exec_in_node(settings: Settings, node: str, argv: Sequence[str]) -> int:
    """Run a command in a node, with this process's own stdin, stdout and stderr.

    Signals go on to the command, and it ends with us, even if we are killed.
    Returns: its exit status, or 128 + N when signal N ended it.
    Raises: LabError: no such node.
    """
    running = find_node(settings, node)
    pid_namespace = os.open(f"/proc/{running.pid}/ns/pid", os.O_RDONLY)
    others = [
        (os.open(f"/proc/{running.pid}/ns/{name}", os.O_RDONLY), kind)
        for name, kind in _NAMESPACES.items()
    ]
    syscalls.setns(pid_namespace, syscalls.CLONE_NEWPID)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    child = os.fork()
    if child == 0:
        _run_child(f"{settings.cgroup}/{node}", others, argv)
    for number in _FORWARDED:
        signal.signal(number, lambda received, _frame: _forward(child, received))
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 128 - code


def _forward(child: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        # On a terminal the command, in the same foreground group, got Ctrl-C by itself.
        if not (number in (signal.SIGINT, signal.SIGQUIT) and sys.stdin.isatty()):
            os.kill(child, number)


def _run_child(cgroup: str, namespaces: list[tuple[int, int]], argv: Sequence[str]) -> NoReturn:
    try:
        syscalls.die_with_parent(signal.SIGKILL)
        cgroups.join(cgroup, cgroups.LEAF)
        for fd, kind in namespaces:
            syscalls.setns(fd, kind)
        os.chdir("/root")
        for number in _FORWARDED:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        env = {**NODE_ENV, "TERM": os.environ.get("TERM", "dumb")}
        os.execvpe(argv[0], list(argv), env)
    except FileNotFoundError:
        print(f"{argv[0]}: not found in the node", file=sys.stderr)
        os._exit(_NOT_FOUND)
    except OSError as problem:
        print(f"cannot run {argv[0]}: {problem}", file=sys.stderr)
        os._exit(_NOT_FOUND - 1)


def enter_lab_net(settings: Settings) -> None:
    """Move this thread into the lab's network namespace, for good.

    Raises: LabError: the lab is not up.
    """
    try:
        fd = os.open(f"/run/netns/{settings.netns}", os.O_RDONLY)
    except FileNotFoundError as missing:
        raise LabError(f"lab {settings.name!r} is not up: scripts/lab up") from missing
    syscalls.setns(fd, syscalls.CLONE_NEWNET)
    os.close(fd)


def exec_in_lab_net(settings: Settings, argv: Sequence[str]) -> NoReturn:
    """Become a command of the machine in the lab's network namespace.

    Raises: LabError: the lab is not up, or there is no such command.
    """
    enter_lab_net(settings)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execvp(argv[0], list(argv))
    except FileNotFoundError as missing:
        raise LabError(f"{argv[0]}: not found on this machine") from missing


def call_node(
    settings: Settings, node: str, argv: Sequence[str], *, stdin: IO[bytes] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command in a node from the lab's own code and return what it printed.

    A process of its own does it, since entering a namespace is for good.
    """
    entry: Path = settings.checkout / "scripts" / "lab"
    return subprocess.run(
        [sys.executable, str(entry), "exec", node, "--", *argv],
        stdin=stdin or subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "CRISHIM_LAB_NAME": settings.name},
        check=False,
    )


def check_node(
    settings: Settings, node: str, argv: Sequence[str], *, stdin: IO[bytes] | None = None
) -> str:
    """Run a command in a node as `call_node` does; return its output.

    Raises: LabError: it failed; with its output.
    """
    done = call_node(settings, node, argv, stdin=stdin)
    if done.returncode != 0:
        raise LabError(f"{node}: {' '.join(argv)}: exit {done.returncode}\n{done.stdout.strip()}")
    return done.stdout
