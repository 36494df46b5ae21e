"""Find the words that matter in the logs of runc and CRIU.

The only place that matches the text of tools' output. Callers put what it returns into the details
of an error; it decides nothing, but that a restore is tried again of whose failure CRIU's log says
nothing, or what the node may have again later.
"""

from __future__ import annotations

import collections
import contextlib
import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_CRIU_ERROR = re.compile(r"^\([0-9.]+\)\s+(?:pie: )?(?:\d+:\s+)?(Error .*|.*FAILED.*)$")
# Said by every CRIU without CAP_SYS_RESOURCE, and by the helpers of one that failed already.
_HARMLESS = ("RLIMIT_NOFILE", "cgroupd: recv req error")
# errno(3) of what a node lacks for a while; CRIU's word for a process that the kernel has ended.
_TRANSIENT = re.compile(
    r"Cannot allocate memory|Resource temporarily unavailable|No space left|quota exceeded"
    r"|Input/output error|Stale file handle|Address already in use|Cannot assign requested address"
    r"|resource busy|timed out|Too many open files|killed by signal",
    re.IGNORECASE,
)
# CRIU's restorer has no words: EIO, EAGAIN, ENOMEM, EBUSY, ENFILE, EMFILE, ENOSPC, EADDRINUSE,
# EADDRNOTAVAIL, ETIMEDOUT, ESTALE or EDQUOT as it prints a call's result, ENOMEM as an address too.
_TRANSIENT_NUMBER = re.compile(
    r"^Error \(\S*pie/\S+\): .*(?:-(?:5|11|12|16|23|24|28|98|99|110|116|122)\b|\bf{15}4\b)"
)
_TAIL_BYTES = 1 << 20


def criu_errors(log: Path, *, lines: int = 4) -> str:
    """Return the last error lines of a dump.log or restore.log, joined by "; ".

    Args: lines: how many at the most.
    Returns: "" when there is no log or it holds no error.
    """
    return "; ".join(collections.deque(_criu_errors(_tail(log).split("\n")), lines))


def is_lasting(log: Path) -> bool:
    """Return whether what CRIU's log says of a failure is likely to come again. Blocks.

    One error that speaks of what a node lacks for a while is enough to deny it, wherever it stands:
    many others may follow from it. No error at all is no evidence of anything.

    Args: log: of one run, from its beginning.
    """
    lasting = False
    with contextlib.suppress(FileNotFoundError), log.open(errors="replace", newline="\n") as lines:
        for error in _criu_errors(lines):
            if _TRANSIENT.search(error) or _TRANSIENT_NUMBER.match(error):
                return False
            lasting = True
    return lasting


def _criu_errors(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        match = _CRIU_ERROR.match(line.rstrip())
        if match and not any(text in line for text in _HARMLESS):
            yield match.group(1)


def runc_error(log: Path) -> str:
    """Return the message of the last error in a runc log of format json; "" if there is none."""
    message = ""
    for line in _tail(log).split("\n"):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("level") in {"error", "fatal"}:
            message = str(entry.get("msg", ""))
    return message


def last_lines(output: bytes, *, max_chars: int = 500) -> str:
    """Return the whole lines at the end of what a tool has printed."""
    text = output.decode(errors="replace").strip()
    if len(text) <= max_chars:
        return text
    cut = text[-max_chars:]
    return cut.partition("\n")[2] or cut


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
