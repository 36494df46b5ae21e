#!/usr/bin/python3
"""Make the virtual machine's disk of the root this runs in: packages, modules, file system.

Usage: make_image.py OUT SIZE PACKAGE... Runs as root inside the image's root with a mount
namespace of its own.
"""

import lzma
import os
import pathlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor


def install(packages: list[str]) -> None:
    """Install packages, without starting or asking anything."""
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    options = ["-q", "-oAcquire::Check-Valid-Until=false", "-oAPT::Sandbox::User=root"]
    for words in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        subprocess.run(["apt-get", *options, *words], check=True, env=env)
    subprocess.run(["apt-get", "clean"], check=True)


def unpack_module(path: pathlib.Path) -> None:
    """Replace a compressed module: emulation would take long over it at each start."""
    path.with_suffix("").write_bytes(lzma.decompress(path.read_bytes()))
    path.unlink()


def main() -> None:
    """Make the image."""
    out, size, packages = sys.argv[1], sys.argv[2], sys.argv[3:]
    install(packages)
    (modules,) = pathlib.Path("/usr/lib/modules").iterdir()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(unpack_module, list(modules.rglob("*.ko.xz"))))
    subprocess.run(["depmod", modules.name], check=True)
    # A bind mount that is not recursive: the root without /proc, /dev and what else is mounted.
    root = pathlib.Path("/tmp/root")
    root.mkdir()
    subprocess.run(["mount", "--bind", "/", str(root)], check=True)
    with open(out, "wb") as image:
        image.truncate(int(size))
    # Throw-away machines need no journal.
    make = ["mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0"]
    lazy = ["-E", "lazy_itable_init=1,nodiscard"]
    subprocess.run([*make, *lazy, "-d", str(root), out], check=True)


main()
