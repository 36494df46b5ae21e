"""`crishim list`: the checkpoints in the node's store, and the connections that wait for one."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from crishim.cli import client
from crishim.cli.exits import Exit

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

_HEADINGS = ("NAME", "POD", "CONTAINER", "AGE", "SIZE", "STATE", "ADDRESSES")
_WAITING = ("CONNECTIONS TO", "WAIT FOR", "SINCE")


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "list",
        help="list the checkpoints in the node's store",
        description="List the checkpoints in the node's store, oldest first. STATE is what became "
        "of the source: it was ended by the checkpoint, or went on running; or why the archive "
        "cannot be read. Below them, the connections of stopped containers that wait for a "
        "restore, also of an archive elsewhere.",
    )
    parser.add_argument(
        "--waiting", action="store_true", help="only the connections that wait for a restore"
    )
    client.add_common(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print a table, or the checkpoints as JSON."""
    from crishim._proto.crishim.v1 import crishim_pb2

    with client.service(arguments.socket) as service:
        answer = service.ListCheckpoints(crishim_pb2.ListCheckpointsRequest())
    if arguments.json:
        kind = "waiting" if arguments.waiting else "checkpoints"
        print(json.dumps(client.as_dict(answer)[kind], indent=1))
        return Exit.OK
    now_s = time.time()
    tables = []
    if not arguments.waiting:
        tables.append([_HEADINGS, *(_row(info, now_s) for info in answer.checkpoints)])
    if answer.waiting:
        tables.append([_WAITING, *(_wait(item, now_s) for item in answer.waiting)])
    if tables:
        print("\n\n".join("\n".join(table(rows)) for rows in tables))
    return Exit.OK


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows as lines whose columns are as wide as their longest entries."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def age(seconds: float) -> str:
    """Return a time span for people: "42s", "5m", "3h", "12d"."""
    for unit, length_s, limit_s in (("s", 1, 120), ("m", 60, 7200), ("h", 3600, 172_800)):
        if seconds < limit_s:
            return f"{max(0, seconds) // length_s:.0f}{unit}"
    return f"{seconds // 86_400:.0f}d"


def _wait(item: Any, now_s: float) -> tuple[str, ...]:
    since = age(now_s - item.since.ToNanoseconds() / 1e9)
    texts = (", ".join(item.addresses), item.name or item.path, since)
    return tuple(map(client.printable, texts))


def _row(info: Any, now_s: float) -> tuple[str, ...]:
    size = client.human_bytes(info.archive_bytes)
    if info.error:
        return info.name, "", "", "", size, f"unreadable: {client.printable(info.error)}", ""
    texts = (
        info.name,
        f"{info.pod_namespace}/{info.pod_name}",
        info.container_name,
        age(now_s - info.created_at.ToNanoseconds() / 1e9),
        size,
        "running" if info.source_running else "ended",
        ", ".join(info.addresses),
    )
    return tuple(map(client.printable, texts))
