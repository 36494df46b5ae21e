"""Root file systems: the node's base, the builder's, and a layer of an older containerd.

Everything comes from the machine's own Debian mirror through apt, which checks signatures.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from lab.host.machine import apt_options, debian_mirror, find_mirror
from lab.host.remove import remove_tree
from lab.parts.cache import cached, recipe_key
from lab.run import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NODE_PACKAGES = (
    "attr",
    "busybox-static",
    "ca-certificates",
    "checkpointctl",
    "conntrack",
    "containerd",
    "containernetworking-plugins",
    "criu",
    "erofs-utils",
    "iproute2",
    "iptables",
    "kmod",
    "less",
    "libnftables1",
    "netcat-openbsd",
    "nftables",
    "procps",
    "python3",
    "python3-venv",
    "runc",
    "strace",
    "systemd",
    "systemd-sysv",
    "tcpdump",
)
BUILDER_PACKAGES = ("golang-go", "ca-certificates")
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def base_root(cache: Path) -> Path:
    """Return a Debian sid root with containerd 2.1, runc, CRIU and what a node needs."""
    return debian_root(cache, "base", NODE_PACKAGES)


def builder_root(cache: Path) -> Path:
    """Return a Debian sid root with a Go compiler."""
    return debian_root(cache, "builder", BUILDER_PACKAGES)


def debian_root(cache: Path, kind: str, packages: tuple[str, ...]) -> Path:
    """Return a small Debian sid root with these packages."""

    def build(directory: Path) -> None:
        argv = ["mmdebstrap", "--variant=minbase", f"--include={','.join(packages)}"]
        argv += [f"--aptopt={option}" for option in apt_options()]
        unread = ("doc", "man", "locale", "info")
        argv += [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in unread]
        mirror = debian_mirror()
        # Without a mirror mmdebstrap takes Debian's own and finds the keyring by itself.
        source = [f"deb [signed-by={_KEYRING}] {mirror} sid main"] if mirror else []
        run([*argv, "--format=directory", "sid", str(directory), *source])

    return cached(cache, kind, recipe_key("sid", *packages), build)


def trixie_containerd(cache: Path) -> Path:
    """Return a layer with Debian trixie's containerd 1.7 and its runc."""

    def build(directory: Path) -> None:
        with trixie_packages(cache) as download:
            for package in ("containerd", "runc"):
                run(["dpkg-deb", "--extract", str(download(package)), str(directory)])
        remove_tree(directory / "usr" / "share")

    return cached(cache, "containerd-1.7", recipe_key("trixie", "containerd", "runc"), build)


@contextlib.contextmanager
def trixie_packages(cache: Path) -> Iterator[Callable[[str], Path]]:
    """Give a function that downloads a package of Debian trixie, which need not fit the machine.

    The files it returns are gone after the block.
    """
    # Where the machine names no Debian mirror, the base root has mmdebstrap's own choice.
    written = (base_root(cache) / "etc/apt/sources.list").read_text()
    mirror = debian_mirror() or find_mirror([(".list", written)])
    with tempfile.TemporaryDirectory(dir=cache, prefix=".trixie-") as name:
        apt = Path(name)
        for folder in ("lists/partial", "archives/partial", "packages"):
            (apt / folder).mkdir(parents=True)
        (apt / "sources.list").write_text(f"deb [signed-by={_KEYRING}] {mirror} trixie main\n")
        options = {
            "Dir::Etc::SourceList": str(apt / "sources.list"),
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::Etc::Preferences": "/dev/null",
            "Dir::Etc::PreferencesParts": "/dev/null",
            "Dir::State::Lists": str(apt / "lists"),
            "Dir::State::Status": "/dev/null",
            "Dir::Cache": str(apt),
            "APT::Sandbox::User": "root",
            "Acquire::Check-Valid-Until": "false",
        }
        base = ["apt-get", "-q", *(f"-o{key}={value}" for key, value in options.items())]
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        run([*base, "update"], env=env)

        def download(package: str) -> Path:
            run([*base, "download", package], env=env, cwd=apt / "packages")
            (file,) = (apt / "packages").glob(f"{package}_*.deb")
            return file

        yield download
