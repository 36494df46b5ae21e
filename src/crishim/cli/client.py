"""Talk to the daemon: one channel, its errors as exit statuses, progress for people or programs.

The command knows the daemon by `crishim.v1` alone; it imports nothing of the flows.
gRPC is imported where it is used, so that `--help` is quick.
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import TYPE_CHECKING, Any

from crishim.cli.exits import Exit

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from google.protobuf.message import Message

DEFAULT_SOCKET = "/run/crishim/crishim.sock"
_STATUS = {"INVALID_ARGUMENT": Exit.USAGE, "ABORTED": Exit.BUSY}
_OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.default_authority", "localhost"))


def add_socket(parser: argparse.ArgumentParser) -> None:
    """Add the option that every command has that asks the daemon."""
    parser.add_argument(
        "--socket",
        default=DEFAULT_SOCKET,
        metavar="PATH",
        help="the daemon's socket (default: %(default)s)",
    )


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that ask the daemon and print what it says."""
    add_socket(parser)
    parser.add_argument("--json", action="store_true", help="JSON on standard output, for programs")


@contextlib.contextmanager
def service(socket: str) -> Iterator[Any]:
    """Give a stub of crishim.v1.CheckpointRestore; a failed call ends the command.

    Leaving the block by Ctrl-C cancels the call: the daemon undoes what it began.
    """
    import grpc

    from crishim._proto.crishim.v1 import crishim_pb2_grpc

    with grpc.insecure_channel(f"unix:{socket}", options=_OPTIONS) as channel:
        try:
            yield crishim_pb2_grpc.CheckpointRestoreStub(channel)  # type: ignore[arg-type]
        except grpc.RpcError as error:
            code, details = error.code(), error.details() or ""
            if code is grpc.StatusCode.UNAVAILABLE and "containerd" not in details:
                details = f"no daemon answers at {socket} (is `crishim serve` running?)"
            print(f"crishim: {details}", file=sys.stderr)
            raise SystemExit(_STATUS.get(code.name, Exit.FAILED)) from None


def follow(stream: Iterable[Any], *, as_json: bool) -> Any:
    """Show the phases of a call as they begin and return its result.

    On a terminal one line is written over again; elsewhere each phase has a line of its own. With
    `as_json` every event is one JSON object on a line of standard output.
    """
    terminal = sys.stderr.isatty() and not as_json
    result = None
    for event in stream:
        if event.WhichOneof("event") == "result":
            result = event.result
        if as_json:
            print(json.dumps(as_dict(event)), flush=True)
        elif event.WhichOneof("event") == "phase":
            line = f"{event.phase.elapsed_us / 1e6:7.3f} s  {event.phase.name}"
            if event.phase.bytes_done:
                line += f"  {human_bytes(event.phase.bytes_done)}"
            end = "" if terminal else "\n"
            print(f"\r\033[K{line}" if terminal else line, end=end, file=sys.stderr, flush=True)
    if terminal:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    return result


def as_dict(message: Message) -> dict[str, Any]:
    """Return a message for JSON, with the proto's own names and all fields."""
    from google.protobuf.json_format import MessageToDict

    table: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return table


def warnings(messages: Iterable[Any]) -> list[str]:
    """Return a line for people for each crishim.v1.Warning."""
    return [
        printable(f"{warning.what} ({warning.cure})" if warning.cure else warning.what)
        for warning in messages
    ]


def warn(messages: Iterable[Any]) -> None:
    """Say on standard error what a call did not keep."""
    for line in warnings(messages):
        print(f"warning: not kept: {line}", file=sys.stderr)


def human_bytes(count: int) -> str:
    """Return a size for people: "512 B", "3.4 MB"."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def printable(text: str) -> str:
    """Return a text without what would steer a terminal: it may come from anybody's archive."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
