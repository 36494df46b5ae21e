"""Podman for the node of a benchmark: a layer over the lab's root, made once and cached."""

from __future__ import annotations

from pathlib import Path

from lab.host.machine import apt_options, build_environment
from lab.parts.cache import cached, recipe_key
from lab.parts.jail import Jail, run_in_root
from lab.parts.roots import base_root
from lab.settings import Settings

PACKAGES = ("podman", "conmon", "netavark")
CONFIGURATION = {
    # Its own storage lies on the disk, as containerd's does.
    "/etc/containers/storage.conf": """\
[storage]
driver = "overlay"
graphroot = "/var/lib/crishim/podman"
runroot = "/run/podman"
""",
    # The node may lack CAP_SYS_RESOURCE and has no systemd.
    "/etc/containers/containers.conf": """\
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "runc"
[containers]
default_ulimits = []
log_driver = "k8s-file"
""",
}


def podman_layer() -> Path:
    """Return a layer with Podman and what it needs beyond the lab's root."""
    cache = Settings.from_environment().cache
    base = base_root(cache)

    def build(directory: Path) -> None:
        options = [
            f"-o{option.replace(' ', '=', 1).replace(chr(34), '')}" for option in apt_options()
        ]
        install = ["install", "-y", "--no-install-recommends", *PACKAGES]
        for words in (["update"], install):
            jail = Jail(
                root=str(base),
                argv=["nice", "-n", "10", "apt-get", "-q", *options, *words],
                env={**build_environment(), "DEBIAN_FRONTEND": "noninteractive"},
                upper=str(directory),
                scratch=str(cache / ".podman.scratch"),
            )
            run_in_root(jail)

    return cached(cache, "podman", recipe_key(base.name, *PACKAGES), build)
