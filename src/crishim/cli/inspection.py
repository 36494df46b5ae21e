"""`crishim inspect`: what is inside a checkpoint."""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import TYPE_CHECKING, Any

from crishim.cli import client, listing
from crishim.cli.exits import Exit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_DESCRIPTION = """\
Show what is inside a checkpoint, without restoring it: where it comes from, its processes, mounts,
sockets and addresses, what it cost and which files it holds.

Nothing of it is run, so it need not be trusted."""

_EPILOG = """\
examples:
  crishim inspect before-upgrade          from the node's store
  crishim inspect /root/db.tar --json"""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "inspect",
        help="show what is inside a checkpoint",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="name in the store, or a path")
    client.add_common(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print what the daemon reads in the archive."""
    from crishim._proto.crishim.v1 import crishim_pb2

    checkpoint = arguments.checkpoint
    if "/" in checkpoint:
        checkpoint = os.path.abspath(checkpoint)
    request = crishim_pb2.InspectCheckpointRequest(checkpoint=checkpoint)
    with client.service(arguments.socket) as service:
        answer = service.InspectCheckpoint(request)
    if arguments.json:
        print(json.dumps(client.as_dict(answer), indent=1))
    else:
        for line in lines(answer):
            print(client.printable(line))
    return Exit.OK


def lines(answer: Any) -> Iterator[str]:
    """Write an InspectCheckpointResponse for people."""
    yield from _columns(_facts(answer))
    if answer.warnings:
        yield from _section("not kept", (f"  {text}" for text in client.warnings(answer.warnings)))
    yield from _section("processes", _process_tree(answer.processes))
    rows = [(f"  {m.destination}", m.type, m.source) for m in answer.mounts]
    yield from _section("mounts", _columns(rows))
    socket_rows = [(f"  {s.protocol}", s.state, s.local, s.remote) for s in answer.sockets]
    yield from _section("sockets", _columns(socket_rows))
    entries = [(f"  {e.name}", client.human_bytes(e.size_bytes), e.digest) for e in answer.entries]
    yield from _section("files", _columns(entries))


def _facts(answer: Any) -> list[tuple[str, str]]:
    info, cost = answer.info, answer.statistics
    created_s = info.created_at.ToNanoseconds() / 1e9
    stamp = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(created_s))
    sizes = ((cost.image_bytes, "memory and images"), (cost.layer_bytes, "writable layer"))
    phases = (f"{phase.name} {phase.duration_us / 1e3:.0f}" for phase in cost.phases)
    return [
        ("checkpoint", info.name or info.path),
        ("container", f"{info.container_name} ({info.container_id})"),
        ("pod", f"{info.pod_namespace}/{info.pod_name} ({info.pod_uid})"),
        ("image", info.image),
        ("created", f"{stamp}, {listing.age(time.time() - created_s)} ago"),
        ("source", "went on running" if info.source_running else "ended"),
        ("addresses", ", ".join(info.addresses) or "none"),
        (
            "size",
            f"{client.human_bytes(cost.archive_bytes)}: "
            + ", ".join(f"{client.human_bytes(count)} {what}" for count, what in sizes),
        ),
        ("pause", f"{cost.freeze_us / 1e3:.0f} ms"),
        ("phases", f"{', '.join(phases)} ms"),
        (
            "CRIU",
            f"frozen {cost.criu_frozen_us / 1e3:.0f} ms, memory {cost.criu_memdump_us / 1e3:.0f} "
            f"ms, {cost.criu_pages_written} of {cost.criu_pages_scanned} pages written",
        ),
    ]


def _process_tree(processes: Sequence[Any]) -> Iterator[str]:
    """Write each process below its parent; what hangs on no root follows flat."""
    known = {process.pid for process in processes}
    children: dict[int, list[Any]] = {}
    for process in processes:
        children.setdefault(process.ppid if process.ppid in known else 0, []).append(process)
    waiting = [(process, 1) for process in reversed(children.pop(0, []))]
    while waiting:
        process, depth = waiting.pop()
        yield _process(process, depth)
        waiting += [(child, depth + 1) for child in reversed(children.pop(process.pid, []))]
    for circle in children.values():
        yield from (_process(process, 1) for process in circle)


def _process(process: Any, depth: int) -> str:
    user = f" (uid {process.uid})" if process.uid else ""
    return f"{'  ' * depth}{process.pid} {process.command}{user}"


def _section(title: str, body: Any) -> Iterator[str]:
    content = list(body)
    yield ""
    yield title if content else f"{title}: none"
    yield from content


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    return listing.table(rows) if rows else []
