"""What a user asks a lab about: its state, versions and logs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lab.errors import LabError
from lab.node.enter import call_node
from lab.node.nodes import find_node, known_nodes, services
from lab.run import say
from lab.settings import Options

if TYPE_CHECKING:
    from pathlib import Path

    from lab.settings import Settings

# Where in the first line of `--version` the version is.
_VERSIONS = {"containerd": 2, "runc": 2, "criu": 1}


def print_status(settings: Settings) -> int:
    """Print the lab's options and each node's services; return 0 if all of it runs, else 3."""
    options = settings.read_options()
    say(f"lab {settings.name!r}: {options or 'not up'}")
    healthy = options is not None
    for node in known_nodes(settings):
        try:
            pid = find_node(settings, node).pid
        except LabError as problem:
            say(f"{node}: {problem}")
            healthy = False
            continue
        versions = [_version(settings, node, name) for name in _VERSIONS]
        say(f"{node}: process 1 is {pid}; {', '.join(versions)}")
        for service in services(node, options or Options()):
            done = call_node(settings, node, ["service", service, "status"])
            healthy = healthy and done.returncode == 0
            say(f"  {done.stdout.strip()}")
    return 0 if healthy else 3


def _version(settings: Settings, node: str, program: str) -> str:
    done = call_node(settings, node, [program, "--version"])
    words = done.stdout.split("\n")[0].split()
    at = _VERSIONS[program]
    return f"{program} {words[at].removeprefix('v') if len(words) > at else 'does not run'}"


def print_logs(settings: Settings, node: str) -> None:
    """Print every log of a node, also of one that has ended; `control`: of the control plane.

    Raises: LabError: there never was such a node.
    """
    logs = log_dir(settings, node)
    if not logs.is_dir():
        raise LabError(f"there is no {node} in lab {settings.name!r}")
    for path in sorted(logs.glob("*.log")):
        say(f"==> {path.name} <==")
        say(path.read_text(errors="replace").rstrip("\n"))


def log_dir(settings: Settings, node: str) -> Path:
    """Return where on the machine the logs of a node are, or those of the control plane."""
    if node == "control":
        return settings.control_dir / "log"
    return settings.node_dir(node) / "data" / "log"
