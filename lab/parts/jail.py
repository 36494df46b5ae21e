"""Run one command inside a root directory, in a mount namespace of its own.

Used for builds. `run_in_root` starts this module as a program with a JSON description, so that
nothing forks inside a process with threads. With `upper` the root stays untouched and what the
command writes lands in that directory: a layer.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lab.host import cgroups, syscalls
from lab.run import run

_BIND = syscalls.MS_BIND | syscalls.MS_REC


@dataclass(frozen=True, slots=True, kw_only=True)
class Jail:
    """A root, what is seen in it, and what runs there.

    With `upper`, `root` may be several layers joined by colons, the uppermost first. With
    `cgroup`, what runs there is found and ended by that cgroup, also what detached itself.
    """

    root: str
    argv: list[str]
    binds: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    cwd: str = "/"
    upper: str = ""
    scratch: str = ""
    cgroup: str = ""


def run_in_root(jail: Jail) -> str:
    """Run the jail's command to its end and return its stdout.

    The command sees the machine's resolv.conf and certificates, so that downloads work as they
    do outside.
    Raises: LabError: it failed.
    """
    package_home = Path(__file__).resolve().parents[2]
    argv = [sys.executable, "-B", "-m", "lab.parts.jail", json.dumps(asdict(jail))]
    return run(argv, env={"PATH": os.environ["PATH"], "PYTHONPATH": str(package_home)})


def _enter(jail: Jail) -> None:
    syscalls.die_with_parent(signal.SIGKILL)
    if jail.cgroup:
        cgroups.join(jail.cgroup, cgroups.LEAF)
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
    root = Path(jail.root)
    if jail.upper:
        root, work = Path(jail.scratch, "merged"), Path(jail.scratch, "work")
        for path in (root, work, Path(jail.upper)):
            path.mkdir(parents=True, exist_ok=True)
        layers = f"lowerdir={jail.root},upperdir={jail.upper},workdir={work}"
        syscalls.mount("overlay", str(root), "overlay", data=layers)
    syscalls.mount("proc", str(root / "proc"), "proc")
    syscalls.mount("/dev", str(root / "dev"), flags=_BIND)
    syscalls.mount("tmpfs", str(root / "tmp"), "tmpfs")
    syscalls.mount("tmpfs", str(root / "run"), "tmpfs")
    for source, target in jail.binds.items():
        inside = root / target.lstrip("/")
        inside.mkdir(parents=True, exist_ok=True)
        syscalls.mount(source, str(inside), flags=_BIND)
    for name in ("/etc/resolv.conf", "/etc/ssl/certs/ca-certificates.crt"):
        _show_file(Path(name), root / name.lstrip("/"))
    os.chroot(root)
    os.chdir(jail.cwd)


def _show_file(source: Path, target: Path) -> None:
    """Bind one file of the machine over the root's own, which need not exist."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    syscalls.mount(str(source.resolve()), str(target), flags=syscalls.MS_BIND)


def _main() -> None:
    jail = Jail(**json.loads(sys.argv[1]))
    _enter(jail)
    env = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        **jail.env,
    }
    program = shutil.which(jail.argv[0], path=env["PATH"]) or jail.argv[0]
    os.execve(program, jail.argv, env)


if __name__ == "__main__":
    _main()
