"""`crishim rm`: remove checkpoints from the node's store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crishim.cli import client
from crishim.cli.exits import Exit

if TYPE_CHECKING:
    import argparse


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "rm",
        help="remove checkpoints from the node's store",
        description="Remove checkpoints from the node's store, for good. One that a created "
        "container is to be restored from stays, with exit status 3. What is left of a stopped "
        "container whose pod is still there, or whose connections wait for the restore, stays too, "
        "unless --force is given. With "
        "--force, the path of an archive elsewhere or an address, as `crishim list` shows them, "
        "lets go of what waits there; the archive stays. All are tried; the exit status is that of "
        "the last one that failed.",
    )
    parser.add_argument(
        "checkpoints",
        nargs="+",
        metavar="CHECKPOINT",
        help="name in the store; with --force also a path or an address that connections wait for",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="remove also what is left of a stopped container, and let go of connections that wait "
        "for its restore: their clients see them reset",
    )
    client.add_socket(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Remove one after the other; print the names of those that are gone."""
    from crishim._proto.crishim.v1 import crishim_pb2

    status: int = Exit.OK
    for name in arguments.checkpoints:
        try:
            with client.service(arguments.socket) as service:
                service.RemoveCheckpoint(
                    crishim_pb2.RemoveCheckpointRequest(name=name, force=arguments.force)
                )
            print(name)
        except SystemExit as failure:
            status = int(failure.code or 0)
    return status
