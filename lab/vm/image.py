"""What the virtual machine is made of, all in the cache: QEMU, a kernel, a disk.

QEMU lives in a root of its own, so nothing is installed on the machine. The kernel is Debian
trixie's for clouds: it has soft-dirty and checkpoint/restore, and the drivers of an NVMe disk with
ext4 built in, so it needs no initramfs.
"""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING

from lab.errors import LabError
from lab.host.machine import build_environment
from lab.host.remove import remove_tree
from lab.node.files import GUEST, write_node_files
from lab.parts.cache import cached, files_of, recipe_key
from lab.parts.jail import Jail, run_in_root
from lab.parts.roots import debian_root, trixie_packages
from lab.run import run
from lab.vm.files import link_units, machine_files

if TYPE_CHECKING:
    from lab.settings import Options
    from lab.up import Parts

HOST_NAME = "vm"
DISK = "disk.ext4"
KERNEL = "vmlinuz"
_QEMU_PACKAGES = ("qemu-system-x86",)
_KERNEL_PACKAGE = "linux-image-cloud-amd64"
# mmdebstrap and its keyring are what the lab wants of the machine that it runs on.
_MORE_PACKAGES = ("apparmor", "debian-archive-keyring", "e2fsprogs", "mmdebstrap")
_DISK_BYTES = 16 << 30
_LAB_FILES = "usr/local/share/lab"


def qemu_root(cache: Path) -> Path:
    """Return a root with QEMU.

    Raises: LabError: this is no x86-64 machine, whose programs the guest would have to emulate.
    """
    if platform.machine() != "x86_64":
        raise LabError("the virtual machine is x86-64 only")
    return debian_root(cache, "qemu", _QEMU_PACKAGES)


def machine_image(cache: Path, parts: Parts, options: Options) -> Path:
    """Return a directory with the kernel and the disk of a machine made of these layers."""
    kernel = _kernel(cache)
    files = machine_files(HOST_NAME, options)
    recipe = recipe_key(
        *(str(layer.relative_to(cache)) for layer in parts.layers),
        *(part for pair in sorted(files.items()) for part in pair),
        *files_of(GUEST),
        *((Path(__file__).parent / name).read_bytes() for name in ("image.py", "files.py")),
        kernel.name,
    )

    def build(directory: Path) -> None:
        upper = cache / ".vm.upper"
        for leftover in (upper, cache / ".vm.scratch"):
            remove_tree(leftover)
        upper.mkdir()
        write_node_files(upper, files)
        link_units(upper)
        run(["cp", "-a", "--", f"{kernel}/usr", f"{upper}/"])
        run(["install", "-D", str(parts.images), str(upper / _LAB_FILES / "images.tar")])
        (directory / KERNEL).write_bytes((kernel / KERNEL).read_bytes())
        make = ["/make_image.py", f"/out/{DISK}", str(_DISK_BYTES), *_MORE_PACKAGES]
        jail = Jail(
            root=":".join(str(layer) for layer in parts.layers),
            argv=["nice", "-n", "10", "python3", *make],
            binds={str(directory): "/out"},
            env=build_environment(),
            upper=str(upper),
            scratch=str(cache / ".vm.scratch"),
        )
        run(["install", str(GUEST / "vm" / "make_image.py"), str(upper / "make_image.py")])
        run_in_root(jail)
        for leftover in (upper, cache / ".vm.scratch"):
            remove_tree(leftover)

    return cached(cache, "vm", recipe, build)


def _kernel(cache: Path) -> Path:
    """Return a directory with `vmlinuz` and, below `usr`, the modules of the kernel."""

    def build(directory: Path) -> None:
        with trixie_packages(cache) as download:
            newest = run(["dpkg-deb", "--field", str(download(_KERNEL_PACKAGE)), "Depends"])
            found = re.search(r"linux-image-[\w.+-]+", newest)
            if not found:
                raise LabError(f"{_KERNEL_PACKAGE} names no kernel: {newest}")
            run(["dpkg-deb", "--extract", str(download(found[0])), str(directory)])
        (image,) = (directory / "boot").glob("vmlinuz-*")
        image.rename(directory / KERNEL)
        for unneeded in ("boot", "usr/share"):
            remove_tree(directory / unneeded)

    return cached(cache, "kernel", recipe_key("trixie", _KERNEL_PACKAGE), build)
