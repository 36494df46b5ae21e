"""The `crishim` command: sub-commands, errors to exit statuses.

A sub-command is a module of this package with `add(subparsers)`, which describes it and sets `run`,
a function from the parsed arguments to an exit status. It imports what it needs in `run`, so that
`crishim --help` is quick.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from crishim import __version__
from crishim.cli import (
    checkpoint,
    doctor,
    inspection,
    listing,
    remove,
    restore,
    serve,
    version,
)
from crishim.cli.exits import Exit
from crishim.errors import Busy, CrishimError, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

_COMMANDS = (serve, checkpoint, restore, listing, inspection, remove, doctor, version)

_DESCRIPTION = """\
Checkpoint, restore and live migration for Kubernetes nodes.

crishim stands between the kubelet (or crictl) and an unmodified containerd: it passes every
CRI call on and adds what containerd lacks."""

_EPILOG = """\
exit status:
  0  done
  1  failed; standard error says why
  2  wrong arguments or configuration; nothing was tried
  3  another instance, or another operation on the same object, is under way

Point crictl at it:   crictl --runtime-endpoint unix:///run/crishim/crishim.sock ps
Point a kubelet at it: containerRuntimeEndpoint: unix:///run/crishim/crishim.sock"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="crishim",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"crishim {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add(subparsers)
    parsed = parser.parse_args(arguments)
    try:
        return int(parsed.run(parsed))
    except CrishimError as error:
        print(f"crishim: {error}", file=sys.stderr)
        if isinstance(error, InvalidRequest):
            return Exit.USAGE
        return Exit.BUSY if isinstance(error, Busy) else Exit.FAILED
