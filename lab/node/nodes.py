"""Start nodes and find the ones that run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab.errors import LabError
from lab.host import cgroups
from lab.host.network import NodeNet, join_node
from lab.node.boot import Boot
from lab.node.files import (
    KUBELET,
    REGISTRY,
    SUPERVISOR,
    kubelet_flags,
    node_files,
    write_node_files,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lab.settings import Options, Settings

# Kept off the node's overlay: an overlay cannot be the upper layer of containerd's own, and logs
# are to be read after a crash.
_DATA = {
    "containerd": "/var/lib/containerd",
    "crishim": "/var/lib/crishim",
    "kubelet": "/var/lib/kubelet",
    "log": "/var/log",
}


@dataclass(frozen=True, slots=True)
class RunningNode:
    """A node's process 1, told from a later process of the same number by its start time."""

    name: str
    pid: int
    start_ticks: int

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return start_ticks(self.pid) == self.start_ticks


def start_ticks(pid: int) -> int | None:
    """Return when a process started, None if it has ended (a zombie has)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def services(node: str, options: Options) -> dict[str, str]:
    """Return the services of a node and their command lines."""
    found = {
        "registry": f"/usr/bin/python3 {REGISTRY}",
        "containerd": "/usr/bin/containerd --config /etc/containerd/config.toml",
        "crishim": "/opt/crishim/bin/crishim serve",
    }
    if options.kubernetes:
        flags = kubelet_flags(node, node_net(node, options), dual_stack=options.dual_stack)
        found["kubelet"] = " ".join(["/usr/bin/python3", KUBELET, *flags])
    return found


def node_net(node: str, options: Options) -> NodeNet:
    """Return the addresses of a node."""
    return NodeNet(int(node.removeprefix("node")), options.cni)


def start_node(
    settings: Settings,
    options: Options,
    *,
    node: str,
    layers: list[Path],
    more_files: Mapping[str, str],
) -> None:
    """Bring one node's process 1 up, connected to the lab's network.

    Args:
        layers: the uppermost first.
        more_files: path and content of files beside those that every node has.
    Raises: LabError: a mount or namespace was refused; nothing but the node's directory and
        cgroup, which `down` removes, is left then.
    """
    directory = settings.node_dir(node)
    for name in ("upper", "work", "merged", *(f"data/{each}" for each in _DATA)):
        (directory / name).mkdir(parents=True)
    net = node_net(node, options)
    write_node_files(directory / "upper", {**node_files(node, net, options), **more_files})
    cgroup = f"{settings.cgroup}/{node}"
    cgroups.create(cgroup)
    report_read, report_write = os.pipe()
    go_read, go_write = os.pipe()
    boot = Boot(
        node=node,
        cgroup=cgroup,
        layers=[str(layer) for layer in layers],
        directory=str(directory),
        checkout=str(settings.checkout),
        data_mounts={str(directory / "data" / name): target for name, target in _DATA.items()},
        argv=["/usr/bin/python3", SUPERVISOR, *_services_argv(node, options)],
        report_fd=report_write,
        go_fd=go_read,
    )
    _spawn_boot(boot, directory / "data/log/supervisor.log", settings.checkout)
    with os.fdopen(report_read) as report, os.fdopen(go_write, "wb") as go:
        first = report.readline().split()
        if first[:1] != ["pid"]:
            raise LabError(f"{node} did not start: {' '.join(first[1:]) or 'see its log'}")
        pid = int(first[1])
        record = {"pid": pid, "start_ticks": start_ticks(pid)}
        (directory / "init.json").write_text(json.dumps(record))
        join_node(settings.netns, pid, net, dual_stack=options.dual_stack)
        go.write(b"g")
        go.flush()
        if rest := report.read().strip():
            raise LabError(f"{node} did not start: {rest.removeprefix('error ')}")


def _services_argv(node: str, options: Options) -> list[str]:
    return [f"{name}={command}" for name, command in services(node, options).items()]


def _spawn_boot(boot: Boot, log: Path, package_home: Path) -> None:
    argv = [sys.executable, "-B", "-m", "lab.node.boot", json.dumps(asdict(boot))]
    with log.open("ab") as output:
        subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(package_home)},
            cwd="/",
            pass_fds=(boot.report_fd, boot.go_fd),
        )
    os.close(boot.report_fd)
    os.close(boot.go_fd)


def find_node(settings: Settings, node: str) -> RunningNode:
    """Return a node that runs.

    Raises: LabError: no such node, or its process 1 has ended.
    """
    try:
        record = json.loads((settings.node_dir(node) / "init.json").read_text())
    except (FileNotFoundError, ValueError) as missing:
        raise LabError(f"there is no {node} in lab {settings.name!r}: scripts/lab up") from missing
    found = RunningNode(node, record["pid"], record["start_ticks"])
    if not found.alive:
        raise LabError(f"{node} has ended: scripts/lab down, then up")
    return found


def known_nodes(settings: Settings) -> list[str]:
    """Return the names of all nodes that have files on the machine, running or not."""
    nodes = settings.state / "nodes"
    return sorted(path.name for path in nodes.iterdir()) if nodes.is_dir() else []
