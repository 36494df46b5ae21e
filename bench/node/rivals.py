"""What crishim is compared with: runc by hand, and Podman. Everything is killed by its own id."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.node import workload
from bench.node.measuring import SCRATCH, call, fresh

if TYPE_CHECKING:
    from bench.node.node import Pod

_BUNDLES = Path("/run/containerd/io.containerd.runtime.v2.task/k8s.io")
_CRIU_CONFIG = SCRATCH / "skip.conf"
_PODMAN_NAME = "bench"

QUICK = {"CRIU_CONFIG_FILE": str(_CRIU_CONFIG)}
"""CRIU without its own network lock, which costs a small process more than its dump."""


class Runc:
    """runc by hand.

    Args: root: its state directory; by default that of containerd's shims.
    """

    _OPTIONS = ("--tcp-established", "--file-locks", "--ext-unix-sk", "--manage-cgroups-mode")

    def __init__(self, root: str = "/run/containerd/runc/k8s.io") -> None:
        self._runc = ["runc", "--root", root]

    def call(self, *words: str, env: dict[str, str] | None = None) -> None:
        """Run one command of it."""
        call([*self._runc, *words], env)

    def checkpoint(self, container: str, directory: Path, *flags: str, **env: str) -> None:
        """Dump into a directory, with the options that crishim gives."""
        images = ("--image-path", str(directory), "--work-path", str(directory.parent))
        options = (*images, *self._OPTIONS, "ignore", "--link-remap")
        self.call("checkpoint", *options, *flags, container, env=env)

    def restore(self, container: str, directory: Path, bundle: Path, **env: str) -> None:
        """Restore from such a directory; returns when it runs."""
        work = directory.parent
        images = ("--image-path", str(directory), "--work-path", str(work))
        options = (*images, *self._OPTIONS, "ignore", "--bundle", str(bundle), "--detach")
        done = subprocess.run(
            [*self._runc, "restore", *options, container],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # the container keeps it: it cannot be a pipe
            stderr=subprocess.DEVNULL,
            env={**os.environ, **env},
            check=False,
        )
        if done.returncode != 0:
            log = (work / "restore.log").read_text(errors="replace")
            sys.exit(f"runc restore: {done.returncode}\n{log[-3000:]}")


class Bundle:
    """The workload under runc alone, in a pod's namespaces: what others are compared with."""

    name = "bench-raw"

    def __init__(self, pod: Pod, *arguments: str, port: int) -> None:
        self.runc = Runc("/run/bench-runc")
        self.directory = fresh("bundle")
        SCRATCH.mkdir(parents=True, exist_ok=True)
        _CRIU_CONFIG.write_text("network-lock skip\n")
        model = pod.create("-port", str(port + 1))
        pod.node.start(model)
        config: dict[str, Any] = json.loads((_BUNDLES / model / "config.json").read_text())
        rootfs = self.directory / "rootfs"
        shutil.copytree(_BUNDLES / model / "rootfs", rootfs, symlinks=True)
        pod.node.remove(model)
        config["process"]["args"] = ["/workload", "-port", str(port), *arguments]
        config["root"]["path"] = str(rootfs)
        config["linux"]["cgroupsPath"] = "/bench/raw"
        (self.directory / "config.json").write_text(json.dumps(config))
        words = ["run", "--detach", "--bundle", str(self.directory), self.name]
        null = subprocess.DEVNULL  # CRIU knows no files of the node
        subprocess.run(
            ["runc", "--root", "/run/bench-runc", *words],
            stdin=null,
            stdout=null,
            stderr=null,
            check=True,
        )
        workload.wait_answer(pod.address, port)

    def remove(self) -> None:
        """End it, and forget it."""
        self.runc.call("delete", "--force", self.name)


def podman_run(port: int, *arguments: str) -> None:
    """Start the workload under Podman, in the node's network, and wait until it answers."""
    options = ["--detach", "--name", _PODMAN_NAME, "--network", "host", "--ulimit", "host"]
    options += ["--env", "GODEBUG=multipathtcp=0"]  # CRIU refuses MPTCP sockets
    call(["podman", "run", *options, workload.IMAGE, "/workload", *arguments, "-port", str(port)])
    workload.wait_answer("127.0.0.1", port)


def podman_checkpoint(archive: Path, *flags: str) -> None:
    """Export it into an archive."""
    options = ["--tcp-established", "--file-locks", "--compress", "none", *flags]
    call(["podman", "container", "checkpoint", *options, "--export", str(archive), _PODMAN_NAME])


def podman_restore(archive: Path) -> None:
    """Import an archive; returns when it runs."""
    options = ["--tcp-established", "--file-locks", "--import", str(archive)]
    call(["podman", "container", "restore", *options])


def podman_remove() -> None:
    """End it, if it is there."""
    call(["podman", "rm", "--force", "--time", "0", "--ignore", _PODMAN_NAME])
