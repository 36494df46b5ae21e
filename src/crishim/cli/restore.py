"""`crishim restore`: put a checkpoint into a created container."""

from __future__ import annotations

import argparse
import os

from crishim.cli import client
from crishim.cli.exits import Exit

_DESCRIPTION = """\
Restore a checkpoint into a container that was created (crictl create) and not started, and
start it: its processes go on where the checkpoint took them, with their files, their log and,
unless asked otherwise, the address and the open connections of their pod.

A restore that fails leaves the container created: it is never started without its state."""

_EPILOG = """\
examples:
  crishim restore 9be1 before-upgrade          from the node's store
  crishim restore 9be1 /var/lib/crishim/db.tar
  crishim restore 9be1 base --address new --tcp close
                                               a second copy, beside the running source"""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "restore",
        help="put a checkpoint into a created container and start it",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("container", metavar="CONTAINER", help="id of the created container")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="name in the store, or a path")
    parser.add_argument(
        "--address",
        choices=("keep", "new"),
        help="the pod's address (default: keep, if the checkpoint ended its source)",
    )
    parser.add_argument(
        "--tcp",
        choices=("established", "close", "refuse"),
        help="open TCP connections (default: established, if the address is kept)",
    )
    parser.add_argument(
        "--allow-privileges",
        action="store_true",
        help="also if its processes have more rights than the new container's settings give: "
        "capabilities, users, no seccomp or AppArmor profile, namespaces of the node",
    )
    parser.add_argument(
        "--no-start", action="store_true", help="only prepare; the next start restores"
    )
    parser.add_argument(
        "--timeout", type=int, default=0, metavar="S", help="give up after so many seconds"
    )
    client.add_common(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask the daemon for a restore and show how it goes."""
    from crishim._proto.crishim.v1 import crishim_pb2

    checkpoint = arguments.checkpoint
    if "/" in checkpoint:
        checkpoint = os.path.abspath(checkpoint)
    request = crishim_pb2.RestoreContainerRequest(
        container_id=arguments.container,
        checkpoint=checkpoint,
        address=f"ADDRESS_MODE_{(arguments.address or 'unspecified').upper()}",
        tcp=f"TCP_MODE_{(arguments.tcp or 'unspecified').upper()}",
        start=not arguments.no_start,
        allow_privileges=arguments.allow_privileges,
        timeout_s=arguments.timeout,
    )
    with client.service(arguments.socket) as service:
        result = client.follow(service.RestoreContainer(request), as_json=arguments.json)
    if not arguments.json:
        print(result.container_id)
        kept = f", address {', '.join(result.addresses)}" if result.addresses else ""
        print(f"{result.statistics.total_us / 1e3:.0f} ms in all{kept}")
        client.warn(result.warnings)
    return Exit.OK
