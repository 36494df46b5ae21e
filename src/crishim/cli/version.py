"""`crishim version`: what is installed."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from typing import TYPE_CHECKING

from crishim import __version__
from crishim.cli.exits import Exit

if TYPE_CHECKING:
    import argparse


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "version",
        help="print the version of crishim and of what it runs on",
        description="Print the version of crishim and of what it runs on. Asks no daemon.",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the versions."""
    versions = {
        "crishim": __version__,
        "python": platform.python_version(),
        "grpcio": version("grpcio"),
        "protobuf": version("protobuf"),
        "kernel": platform.release(),
    }
    if arguments.json:
        print(json.dumps(versions))
    else:
        for name, text in versions.items():
            print(f"{name:9} {text}")
    return Exit.OK
