"""`crishim doctor`: examine the node for what checkpoint and restore need."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crishim import config as configuration
from crishim.cli import client
from crishim.cli.exits import Exit

if TYPE_CHECKING:
    from collections.abc import Sequence

_DESCRIPTION = """\
Examine this node for what checkpoint and restore need: kernel, CRIU, runc, containerd, sockets,
capabilities, files that override what crishim tells CRIU, older pods, room for checkpoints.
Changes nothing. The daemon is asked; if none answers, this command looks by itself.

The exit status is 0 if nothing is worse than a warning, 1 otherwise."""

_MARKS = {1: "ok     ", 2: "WARNING", 3: "ERROR  "}
_ERROR = 3


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "doctor",
        help="examine the node, say how to mend what is wrong",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="show also what is fine")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"settings, if no daemon answers (default: {configuration.DEFAULT_FILE} if it exists)",
    )
    client.add_common(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; return 1 if one of them is an error."""
    from crishim._proto.crishim.v1 import crishim_pb2

    if _listens(arguments.socket):
        with client.service(arguments.socket) as service:
            response = service.Doctor(crishim_pb2.DoctorRequest())
    else:
        response = asyncio.run(_examine_here(arguments))
    if arguments.json:
        print(json.dumps(client.as_dict(response)["findings"], indent=1))
    else:
        show(response.findings, verbose=arguments.verbose)
    return Exit.FAILED if any(f.level == _ERROR for f in response.findings) else Exit.OK


def show(findings: Sequence[Any], *, verbose: bool) -> None:
    """Print one line for each finding that matters, its cure below, and a count at the end."""
    for finding in findings:
        if finding.level > 1 or verbose:
            print(f"{_MARKS[finding.level]}  {finding.id}: {finding.summary}")
            if finding.cure:
                print(f"         -> {finding.cure}")
    counts = [sum(f.level == level for f in findings) for level in (3, 2, 1)]
    print("{} errors, {} warnings, {} fine".format(*counts))


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


async def _examine_here(arguments: argparse.Namespace) -> Any:
    """Run the daemon's own checks in this process, with its privileges in place of the daemon's."""
    from crishim.containerd.channel import open_channel
    from crishim.doctor.answer import doctor_response
    from crishim.doctor.examine import examine
    from crishim.doctor.finding import error

    config = configuration.load(arguments.config)
    server = dataclasses.replace(config.server, socket=Path(arguments.socket))
    config = dataclasses.replace(config, server=server)
    async with open_channel(config.containerd.socket) as channel:
        findings = await examine(config, channel)
    absent = error(
        "daemon.answers",
        f"no daemon answers at {arguments.socket}; this command has looked by itself",
        cure="start crishim: systemctl start crishim",
    )
    return doctor_response([absent, *findings])
