"""The part of the command line about the virtual machine: `scripts/lab vm COMMAND ...`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lab.parts.cache import locked
from lab.run import step
from lab.vm import machine as vm

if TYPE_CHECKING:
    import argparse

    from lab.settings import Settings


def add_verbs(parser: argparse.ArgumentParser) -> None:
    """Add the commands to the parser of `vm`."""
    verbs = parser.add_subparsers(dest="vm_verb", required=True)
    up = verbs.add_parser("up", help="bring the machine up, with crishim as its service")
    up.add_argument("--cpus", type=int, default=2, metavar="N")
    up.add_argument("--memory", type=int, default=2048, metavar="MB")
    enter = verbs.add_parser("exec", help="run a command in it: vm exec -- CMD...")
    enter.add_argument("-t", "--timeout", type=float, metavar="S", help="kill it then, exit 124")
    push = verbs.add_parser("push", help="copy files into one of its directories")
    push.add_argument("sources", nargs="+", type=Path, metavar="FILE")
    push.add_argument("target", metavar="DEST")
    pull = verbs.add_parser("pull", help="copy its files, by absolute path, into a directory here")
    pull.add_argument("sources", nargs="+", metavar="SRC")
    pull.add_argument("target", type=Path, metavar="DEST")
    verbs.add_parser("reload", help="install crishim from the checkout again")
    verbs.add_parser("status", help="say whether it runs, and its services")
    verbs.add_parser("down", help="end it; nothing of it stays")


def dispatch(arguments: argparse.Namespace, settings: Settings) -> int:
    """Run one command and return its exit status; raise LabError."""
    match arguments.vm_verb:
        case "up":
            with locked(settings.vm_lock_file):
                vm.up(settings, cpus=arguments.cpus, memory_mb=arguments.memory)
        case "exec":
            return vm.exec_in_machine(settings, arguments.command, timeout_s=arguments.timeout)
        case "push":
            vm.push(settings, arguments.sources, arguments.target)
        case "pull":
            vm.pull(settings, arguments.sources, arguments.target)
        case "reload":
            with step("virtual machine: crishim"):
                vm.install_checkout(settings)
        case "status":
            return vm.print_status(settings)
        case "down":
            with locked(settings.vm_lock_file), step("virtual machine: down"):
                vm.down(settings)
    return 0
