"""Find the words that matter in the logs of runc and CRIU.

The only place that matches the text of tools' output. Callers put what it returns into the details
of an error; it decides nothing, but that a restore is tried again of whose failure CRIU's log says
nothing, or what the node may have again later.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_CRIU_ERROR = re.compile(r"^\([0-9.]+\)\s+(?:\d+:\s+)?(Error .*|.*FAILED.*)$")
# Said by every CRIU without CAP_SYS_RESOURCE, and by the helpers of one that failed already.
_HARMLESS = ("RLIMIT_NOFILE", "cgroupd: recv req error")
# errno(3) of what a node lacks for a while; CRIU's word for a process that the kernel has ended.
_TRANSIENT = re.compile(
    r"Cannot allocate memory|Resource temporarily unavailable|No space left|quota exceeded"
    r"|Input/output error|Stale file handle|Address already in use|Cannot assign requested address"
    r"|resource busy|timed out|Too many open files|killed by signal",
    re.IGNORECASE,
)
_TAIL_BYTES = 1 << 20


def criu_errors(log: Path, *, lines: int = 4) -> str:
    """Return the last error lines of a dump.log or restore.log, joined by "; ".

    Args: lines: how many at the most.
    Returns: "" when there is no log or it holds no error.
    """
    found = []
    for line in _tail(log).splitlines():
        match = _CRIU_ERROR.match(line)
        if match and not any(text in line for text in _HARMLESS):
            found.append(match.group(1).strip())
    return "; ".join(found[-lines:])


def is_lasting(errors: str) -> bool:
    """Return whether errors of CRIU are likely to come again: what the node lacks for now is not.

    Args: errors: as `criu_errors` returns them; none are no evidence of anything.
    """
    return bool(errors) and not _TRANSIENT.search(errors)


def runc_error(log: Path) -> str:
    """Return the message of the last error in a runc log of format json; "" if there is none."""
    message = ""
    for line in _tail(log).splitlines():
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
