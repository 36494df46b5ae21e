"""`crishim checkpoint`: write a running container into an archive."""

from __future__ import annotations

import argparse
import os

from crishim.cli import client
from crishim.cli.exits import Exit

_DESCRIPTION = """\
Checkpoint a running container: its memory, its writable layer, its log and the addresses of
its pod go into one archive. The container pauses for the time of the memory dump only and then
goes on; with --stop it ends, and its TCP connections wait for its restore. One that a kubelet
manages stays frozen until the kubelet stops it.

What a checkpoint cannot keep is said as a warning, here and by `crishim inspect`.
Nothing is left behind by a failure or by Ctrl-C: the container runs on as before. With --stop it
may stay frozen once its archive has its name, or may have: the error says so, and Ctrl-C comes
too late then."""

_EPILOG = """\
examples:
  crishim checkpoint 4f2a9c                        into the node's store
  crishim checkpoint 4f2a9c --name before-upgrade  under a name of your own
  crishim checkpoint 4f2a9c --stop --output /var/lib/crishim/db.tar
                                                   end it there, to restore it elsewhere

Restore by `crishim restore`, or by crictl with the archive in place of the image."""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "checkpoint",
        help="write a running container into an archive",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("container", metavar="CONTAINER", help="id, or the first digits of it")
    parser.add_argument("--stop", action="store_true", help="end the container when it is written")
    parser.add_argument("--output", metavar="FILE", help="write here (default: the node's store)")
    parser.add_argument("--name", help="name in the store (default: made of pod and time)")
    parser.add_argument(
        "--force", action="store_true", help="replace a checkpoint of that name, if nobody needs it"
    )
    parser.add_argument(
        "--tcp",
        choices=("established", "close", "refuse"),
        default="established",
        help="what becomes of open TCP connections (default: %(default)s)",
    )
    parser.add_argument(
        "--timeout", type=int, default=0, metavar="S", help="give up after so many seconds"
    )
    client.add_common(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask the daemon for a checkpoint and show how it goes."""
    from crishim._proto.crishim.v1 import crishim_pb2

    request = crishim_pb2.CheckpointContainerRequest(
        container_id=arguments.container,
        output_path=os.path.abspath(arguments.output) if arguments.output else "",
        name=arguments.name or "",
        stop=arguments.stop,
        tcp=f"TCP_MODE_{arguments.tcp.upper()}",
        timeout_s=arguments.timeout,
        force=arguments.force,
    )
    with client.service(arguments.socket) as service:
        result = client.follow(service.CheckpointContainer(request), as_json=arguments.json)
    if not arguments.json:
        print(result.path)
        figures = result.statistics
        frozen = f" (frozen {figures.frozen_us / 1e3:.0f} ms until it was durable)"
        print(
            f"paused {figures.freeze_us / 1e3:.0f} ms{frozen * bool(figures.frozen_us)}, "
            f"{figures.total_us / 1e3:.0f} ms in all, {client.human_bytes(figures.archive_bytes)}"
        )
        client.warn(result.warnings)
    return Exit.OK
