"""A virtual machine with systemd and cgroup v2, made of the same layers as the nodes.

It is emulated, so it runs wherever the lab does, slowly: no timing taken in it means anything. It
is thrown away with `down`: its disk is the cached one, and what it writes is kept nowhere.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lab.errors import LabError
from lab.host import cgroups
from lab.host.remove import remove_tree
from lab.node.files import CONTAINERD_SOCKET
from lab.parts.jail import Jail, run_in_root
from lab.run import say, step
from lab.settings import Options
from lab.up import prepare
from lab.vm.channel import run_command
from lab.vm.files import PORTS
from lab.vm.image import DISK, HOST_NAME, KERNEL, machine_image, qemu_root

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lab.settings import Settings

CHECKOUT_PARTS = ("LICENSE", "README.md", "lab", "pyproject.toml", "scripts", "src", "systemd")
_BOOT_TIMEOUT_S = 240.0
_PROVISION_TIMEOUT_S = 300.0
_KERNEL_ARGUMENTS = (
    "root=/dev/nvme0n1 rootfstype=ext4 rw console=ttyS0 quiet mitigations=off nokaslr audit=0"
    " nowatchdog random.trust_cpu=on no_timer_check net.ifnames=0 systemd.show_status=0"
    f" systemd.hostname={HOST_NAME}"
)
_WAIT_FOR_CONTAINERD = (
    f"until crictl -r unix://{CONTAINERD_SOCKET} version >/dev/null 2>&1; do sleep 0.5; done"
)
_IMPORT = ["ctr", "-n", "k8s.io", "image", "import", "--no-unpack"]
_INSTALL_SERVICE = """
install-crishim
install -D -m 644 /src/systemd/crishim.service /etc/systemd/system/crishim.service
install -D -m 644 /src/systemd/config.toml /etc/crishim/config.toml
systemctl daemon-reload
systemctl enable -q crishim
systemctl restart crishim
"""


def up(settings: Settings, *, cpus: int, memory_mb: int) -> None:
    """Bring the machine up, with crishim of the checkout as its service.

    Raises: LabError: a step failed; `down` or the next `up` clears what there is.
    """
    if _is_up(settings):
        say("the virtual machine is up already")
        return
    options = Options()
    qemu = qemu_root(settings.cache)
    image = machine_image(settings.cache, prepare(settings, options), options)
    down(settings)
    settings.vm_dir.mkdir(parents=True)
    cgroups.create(settings.vm_cgroup)
    with step("virtual machine: start"):
        run_in_root(
            Jail(
                root=str(qemu),
                argv=_qemu_argv(cpus=cpus, memory_mb=memory_mb),
                binds={str(settings.vm_dir): "/vm", str(image): "/image"},
                env={"TMPDIR": "/vm"},
                cgroup=settings.vm_cgroup,
            )
        )
        _wait_for_agent(settings)
    with step("virtual machine: containerd"):
        check(settings, ["sh", "-c", _WAIT_FOR_CONTAINERD], timeout_s=_PROVISION_TIMEOUT_S)
        check(settings, [*_IMPORT, "/usr/local/share/lab/images.tar"])
    with step("virtual machine: crishim"):
        install_checkout(settings)
    (settings.vm_dir / "up").touch()


def _wait_for_agent(settings: Settings) -> None:
    try:
        check(settings, ["true"], timeout_s=_BOOT_TIMEOUT_S)
    except LabError as problem:
        console = settings.vm_dir / "console.log"
        raise LabError(f"the virtual machine does not start, see {console}: {problem}") from problem


def install_checkout(settings: Settings) -> None:
    """Copy the checkout to /src and install crishim from it, as its service."""
    parts = [settings.checkout / name for name in CHECKOUT_PARTS]
    push(settings, [part for part in parts if part.exists()], "/src")
    check(settings, ["sh", "-ec", _INSTALL_SERVICE], timeout_s=_PROVISION_TIMEOUT_S)


def _is_up(settings: Settings) -> bool:
    return (settings.vm_dir / "up").exists() and bool(cgroups.members(settings.vm_cgroup))


def _qemu_argv(*, cpus: int, memory_mb: int) -> list[str]:
    argv = ["qemu-system-x86_64", "-name", HOST_NAME, "-daemonize"]
    argv += ["-machine", "q35,hpet=off,usb=off,vmport=off,i8042=off"]
    argv += ["-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max"]
    argv += ["-smp", str(cpus), "-m", str(memory_mb)]
    argv += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    argv += ["-kernel", f"/image/{KERNEL}", "-append", _KERNEL_ARGUMENTS]
    # With `snapshot` writes go to a file in TMPDIR that has no name: it ends with QEMU.
    disk = f"if=none,id=disk,file=/image/{DISK},format=raw,snapshot=on,cache=unsafe"
    argv += ["-drive", disk, "-device", "nvme,drive=disk,serial=disk"]
    argv += ["-device", "virtio-rng-pci", "-serial", "file:/vm/console.log"]
    argv += ["-device", f"virtio-serial-pci,max_ports={len(PORTS) + 1}"]
    for number, port in enumerate(PORTS, start=1):
        argv += ["-chardev", f"socket,id={port},path=/vm/{port}.sock,server=on,wait=off"]
        argv += ["-device", f"virtserialport,nr={number},chardev={port},name={port}"]
    return argv


def down(settings: Settings) -> None:
    """End the machine and remove its files and cgroups; fine if there is none."""
    cgroups.kill_members(settings.vm_cgroup)
    cgroups.remove(settings.vm_cgroup)
    remove_tree(settings.vm_dir)


def exec_in_machine(
    settings: Settings, argv: Sequence[str], *, timeout_s: float | None = None
) -> int:
    """Run a command in the machine with this process's own stdin, stdout and stderr.

    Returns: its exit status; see `run_command`.
    """
    fds = {"out": sys.stdout.fileno(), "err": sys.stderr.fileno()}

    def write(stream: str, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(fds[stream], view) :]

    return run_command(settings.vm_dir, argv, write=write, stdin_fd=0, timeout_s=timeout_s)


def check(
    settings: Settings,
    argv: Sequence[str],
    *,
    stdin_fd: int | None = None,
    timeout_s: float | None = None,
) -> str:
    """Run a command in the machine and return what it printed.

    Raises: LabError: it failed; with what it printed.
    """
    printed = bytearray()
    status = run_command(
        settings.vm_dir,
        argv,
        write=lambda _stream, data: printed.extend(data),
        stdin_fd=stdin_fd,
        timeout_s=timeout_s,
    )
    text = printed.decode(errors="replace")
    if status != 0:
        raise LabError(f"vm: {' '.join(argv)[:200]}: exit {status}\n{text.strip()}")
    return text


def push(settings: Settings, sources: Sequence[Path], target: str) -> None:
    """Copy files and directories into a directory of the machine, which is made if missing.

    Raises: LabError: a source is missing, or the machine does not take it.
    """
    argv = ["tar", "--create", "--xattrs", "--xattrs-include=*", "--exclude=__pycache__"]
    for source in sources:
        if not source.exists():
            raise LabError(f"{source}: no such file")
        argv += ["-C", str(source.absolute().parent), source.name]
    unpack = 'mkdir -p "$1" && exec tar -x --xattrs --xattrs-include="*" --warning=none -C "$1"'
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as tar:
        assert tar.stdout is not None
        try:
            fd = tar.stdout.fileno()
            check(settings, ["sh", "-c", unpack, "push", target], stdin_fd=fd)
        finally:
            tar.stdout.close()
    if tar.returncode != 0:
        raise LabError(f"tar ended with {tar.returncode}")


def pull(settings: Settings, sources: Sequence[str], target: Path) -> None:
    """Copy files and directories of the machine, by absolute path, into a directory here.

    Raises: LabError: a source is missing, or the machine ended.
    """
    target.mkdir(parents=True, exist_ok=True)
    argv = ["tar", "--create", "--xattrs"]
    for source in sources:
        path = Path(source)
        if not path.is_absolute():
            raise LabError(f"{source}: want an absolute path")
        argv += ["-C", str(path.parent), path.name]
    errors = bytearray()
    unpack = ["tar", "--extract", "--xattrs", "-C", str(target)]
    with subprocess.Popen(unpack, stdin=subprocess.PIPE) as tar:
        assert tar.stdin is not None
        archive = tar.stdin

        def write(stream: str, data: bytes) -> None:
            if stream == "out":
                archive.write(data)
            else:
                errors.extend(data)

        status = run_command(settings.vm_dir, argv, write=write)
        tar.stdin.close()
    if status != 0 or tar.returncode != 0:
        text = errors.decode(errors="replace").strip()
        raise LabError(f"pull: exit {status}, unpacking {tar.returncode}\n{text}")


def print_status(settings: Settings) -> int:
    """Print whether the machine runs, and its services; return 0 if all of it does, else 3."""
    if not _is_up(settings):
        say("virtual machine: not up")
        return 3
    say(f"virtual machine: {check(settings, ['uname', '-r']).strip()}")
    argv = ["systemctl", "is-active", "containerd", "crishim"]
    states = []

    def write(_stream: str, data: bytes) -> None:
        states.append(data.decode(errors="replace"))

    status = run_command(settings.vm_dir, argv, write=write)
    containerd, crishim = "".join(states).split()[:2]
    say(f"  containerd {containerd}, crishim {crishim}")
    return 0 if status == 0 else 3
