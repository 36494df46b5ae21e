"""Start one node: from a plain process to process 1 in namespaces and a root of its own.

Started as a program by `nodes.py` with a JSON description, two pipes among it: over one it
reports the pid of process 1 and then any error (it closes when process 1 runs its program), over
the other it is told that the network is ready. If whoever brings the lab up ends before that, the
half-made node ends too.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from lab.host import cgroups, syscalls

_NAMESPACES = (
    syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWPID
    | syscalls.CLONE_NEWNET
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWCGROUP
)
NODE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NODE_ENV = {"PATH": NODE_PATH, "HOME": "/root", "LANG": "C.UTF-8"}
_LOOP_DEVICES = 64
_NOT_A_NODE_DEVICE = re.compile(r"tty\d+|ttyS\d+|vcs.*|vd.*|sd.*|nvme.*|mem|port|console")


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """What one node is made of. Paths are the machine's; `layers` has the uppermost first."""

    node: str
    cgroup: str
    layers: list[str]
    directory: str
    checkout: str
    data_mounts: dict[str, str]
    argv: list[str]
    report_fd: int
    go_fd: int


def main() -> None:
    """Make the namespaces, fork process 1, report its pid, leave."""
    boot = Boot(**json.loads(sys.argv[1]))
    os.set_inheritable(boot.report_fd, False)
    os.set_inheritable(boot.go_fd, False)
    try:
        os.setsid()
        cgroups.join(boot.cgroup)
        syscalls.unshare(_NAMESPACES)
        # The new cgroup namespace has the node's cgroup as its root; only now may we go below.
        cgroups.join(boot.cgroup, cgroups.LEAF)
        cgroups.delegate(boot.cgroup)
        pid = os.fork()
    except Exception as problem:
        _report(boot, f"error {problem}")
        raise
    if pid:
        _report(boot, f"pid {pid}")
        os._exit(0)
    try:
        _become_node(boot)
    except Exception as problem:
        _report(boot, f"error {problem}")
        raise


def _report(boot: Boot, line: str) -> None:
    os.write(boot.report_fd, line.encode() + b"\n")


def _become_node(boot: Boot) -> None:
    cgroup_mounts = cgroups.hierarchies()
    root = Path(boot.directory, "merged")
    syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
    layers = ":".join(boot.layers)
    upper, work = f"{boot.directory}/upper", f"{boot.directory}/work"
    data = f"lowerdir={layers},upperdir={upper},workdir={work}"
    syscalls.mount("overlay", str(root), "overlay", data=data)
    _mount_kernel_views(root)
    _mount_devices(root)
    _mount_cgroups(root / "sys/fs/cgroup", cgroup_mounts)
    for source, target in boot.data_mounts.items():
        inside = root / target.lstrip("/")
        inside.mkdir(parents=True, exist_ok=True)
        syscalls.mount(source, str(inside), flags=syscalls.MS_BIND)
    (root / "src").mkdir(exist_ok=True)
    syscalls.mount(boot.checkout, str(root / "src"), flags=syscalls.MS_BIND)
    read_only = syscalls.MS_BIND | syscalls.MS_REMOUNT | syscalls.MS_RDONLY
    syscalls.mount("none", str(root / "src"), flags=read_only)
    _change_root(root)
    Path("/proc/sys/kernel/hostname").write_text(boot.node)
    if os.read(boot.go_fd, 1) != b"g":
        os._exit(1)
    os.chdir("/")
    os.execve(boot.argv[0], boot.argv, NODE_ENV)


def _mount_kernel_views(root: Path) -> None:
    safe = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    syscalls.mount("proc", str(root / "proc"), "proc", flags=safe)
    syscalls.mount("sysfs", str(root / "sys"), "sysfs", flags=safe)
    syscalls.mount("tmpfs", str(root / "run"), "tmpfs", data="mode=755")
    syscalls.mount("tmpfs", str(root / "tmp"), "tmpfs", data="mode=1777")


def _mount_devices(root: Path) -> None:
    """Give the node its own /dev: no terminals or disks of the machine, its own pts and shm."""
    dev = root / "dev"
    paths = [path for path in Path("/dev").iterdir() if not path.is_symlink()]
    devices = [
        (str(path.relative_to("/dev")), path.stat())
        for path in (*paths, Path("/dev/net/tun"))
        if (path.is_char_device() or path.is_block_device())
        and not _NOT_A_NODE_DEVICE.fullmatch(path.name)
    ]
    syscalls.mount("tmpfs", str(dev), "tmpfs", flags=syscalls.MS_NOSUID, data="mode=755")
    for name, status in devices:
        if name != "ptmx":
            _make_device(dev / name, status.st_mode, status.st_rdev)
    for number in range(_LOOP_DEVICES):
        _make_device(dev / f"loop{number}", stat.S_IFBLK | 0o660, os.makedev(7, number))
    for name, target in (
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ):
        (dev / name).symlink_to(target)
    for name, fstype, data in (
        ("pts", "devpts", "newinstance,ptmxmode=0666,mode=0620,gid=5"),
        ("shm", "tmpfs", "mode=1777"),
        ("mqueue", "mqueue", ""),
    ):
        (dev / name).mkdir()
        syscalls.mount(fstype, str(dev / name), fstype, data=data)


def _make_device(path: Path, mode: int, device: int) -> None:
    if path.exists():
        return
    path.parent.mkdir(exist_ok=True)
    os.mknod(path, mode, device)
    path.chmod(stat.S_IMODE(mode))


def _mount_cgroups(at: Path, found: list[cgroups.Hierarchy]) -> None:
    """Mount the hierarchies again from inside the cgroup namespace: the node is their root."""
    if [hierarchy.version for hierarchy in found] == [2]:
        syscalls.mount("cgroup2", str(at), "cgroup2")
        return
    syscalls.mount("tmpfs", str(at), "tmpfs", data="mode=755")
    for hierarchy in found:
        target = at / hierarchy.point.name
        target.mkdir()
        if hierarchy.version == 2:
            syscalls.mount("cgroup2", str(target), "cgroup2")
        else:
            syscalls.mount("cgroup", str(target), "cgroup", data=hierarchy.options)
        for name in hierarchy.point.name.split(","):
            if name != hierarchy.point.name:
                (at / name).symlink_to(hierarchy.point.name)


def _change_root(root: Path) -> None:
    os.chdir(root)
    (root / ".old").mkdir(exist_ok=True)
    syscalls.pivot_root(".", ".old")
    os.chdir("/")
    syscalls.umount_lazily("/.old")
    Path("/.old").rmdir()
    syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_SHARED)


if __name__ == "__main__":
    main()
