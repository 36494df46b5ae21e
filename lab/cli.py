"""The command line: `scripts/lab COMMAND ...`."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lab.down import take_down
from lab.errors import LabError
from lab.host import machine
from lab.kube.cluster import call_kubelet, exec_kubectl
from lab.node.enter import exec_in_lab_net, exec_in_node
from lab.node.images import make_image
from lab.node.wheel import reload_crishim
from lab.parts.cache import locked
from lab.parts.gotools import build_program
from lab.run import say, step
from lab.settings import CNI_KINDS, CONTAINERD_VERSIONS, NODES_MAX, Options, Settings
from lab.status import print_logs, print_status
from lab.up import bring_up
from lab.vm import cli as vmcli

if TYPE_CHECKING:
    from collections.abc import Sequence


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments; what follows `--` is in `command`, untouched."""
    head, command = list(argv), []
    if "--" in head:
        at = head.index("--")
        head, command = head[:at], head[at + 1 :]
    arguments = _parser().parse_args(head)
    arguments.command = command
    verb = arguments.vm_verb if arguments.verb == "vm" else arguments.verb
    if verb in ("exec", "net", "kubectl") and not command:
        _parser().error(f"{arguments.verb}: want -- and a command")
    if command and verb not in ("exec", "net", "image", "kubectl"):
        _parser().error(f"{arguments.verb} takes no command")
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lab", description="Real nodes on one machine.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("up", help="bring the nodes up")
    up.add_argument("--nodes", type=int, choices=range(1, NODES_MAX + 1), default=1, metavar="N")
    up.add_argument("--containerd", choices=CONTAINERD_VERSIONS, default=CONTAINERD_VERSIONS[0])
    up.add_argument("--cni", choices=CNI_KINDS, default=CNI_KINDS[0])
    up.add_argument("--dual-stack", action="store_true", help="IPv6 beside IPv4")
    up.add_argument("--no-masq", action="store_true", help="pods keep their address outside")
    up.add_argument("--kubernetes", action="store_true", help="a cluster, with crishim as its CRI")
    enter = verbs.add_parser("exec", help="run a command in a node: exec NODE -- CMD...")
    enter.add_argument("node")
    verbs.add_parser("net", help="run a command of the machine next to the nodes: net -- CMD...")
    image = verbs.add_parser("image", help="make an image: image NAME DIR -- CMD...")
    image.add_argument("name")
    image.add_argument("directory", type=Path)
    image.add_argument("--user", default="", help="user that containers run as")
    image.add_argument("--volume", action="append", default=[], help="place of a volume (VOLUME)")
    go = verbs.add_parser("go", help="build a Go program with the lab's compiler: go DIR OUT")
    go.add_argument("directory", type=Path)
    go.add_argument("out", type=Path)
    verbs.add_parser("kubectl", help="run kubectl as administrator: kubectl -- ARGS...")
    kubelet = verbs.add_parser("kubelet-api", help="call a kubelet's own API, print its answer")
    kubelet.add_argument("node")
    kubelet.add_argument("method", choices=("GET", "POST"))
    kubelet.add_argument("path", help="such as /checkpoint/NAMESPACE/POD/CONTAINER")
    logs = verbs.add_parser("logs", help="print the logs of a node's services")
    logs.add_argument("node", help="a node, or `control` for Kubernetes' control plane")
    verbs.add_parser("reload", help="install crishim from the checkout again, on all nodes")
    vmcli.add_verbs(verbs.add_parser("vm", help="a virtual machine with systemd and cgroup v2"))
    verbs.add_parser("status", help="say what runs, and which versions")
    verbs.add_parser("down", help="remove everything of the lab")
    return parser


def main(argv: Sequence[str]) -> int:
    """Run one command and return its exit status."""
    arguments = parse(argv)
    try:
        machine.require_root()
        return _dispatch(arguments, Settings.from_environment())
    except LabError as problem:
        print(f"lab: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _dispatch(arguments: argparse.Namespace, settings: Settings) -> int:
    match arguments.verb:
        case "exec":
            return exec_in_node(settings, arguments.node, arguments.command)
        case "net":
            exec_in_lab_net(settings, arguments.command)
        case "image":
            reference = make_image(
                settings,
                arguments.name,
                arguments.directory,
                command=arguments.command,
                user=arguments.user,
                volumes=arguments.volume,
            )
            say(reference)
        case "go":
            machine.install_missing_tools()
            build_program(settings.cache, arguments.directory, arguments.out)
        case "kubectl":
            exec_kubectl(settings, arguments.command)
        case "kubelet-api":
            return call_kubelet(settings, arguments.node, arguments.method, arguments.path)
        case "vm":
            return vmcli.dispatch(arguments, settings)
        case "logs":
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            print_logs(settings, arguments.node)
        case "status":
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            return print_status(settings)
        case "reload":
            return 0 if reload_crishim(settings) else 1
        case "up":
            options = Options(
                nodes=arguments.nodes,
                containerd=arguments.containerd,
                cni=arguments.cni,
                dual_stack=arguments.dual_stack,
                masquerade=not arguments.no_masq,
                kubernetes=arguments.kubernetes,
            )
            with locked(settings.lock_file):
                bring_up(settings, options)
        case "down":
            with locked(settings.lock_file), step("down"):
                take_down(settings)
    return 0
