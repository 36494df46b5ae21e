"""Logging set-up: one line per record on stderr, with journald priorities when systemd reads it.

Configure once, before grpc starts (grpc.aio and logging configuration deadlock when they meet).
Context of a request travels in a contextvar, so that inner code need not pass ids around.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_context: contextvars.ContextVar[str] = contextvars.ContextVar("crishim_log_context", default="")
_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}


class _Formatter(logging.Formatter):
    def __init__(self, *, journald: bool) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._journald = journald

    def format(self, record: logging.LogRecord) -> str:
        context = _context.get()
        prefix = f"[{context}] " if context else ""
        if not self._journald:
            return prefix + super().format(record)
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        priority = _PRIORITY.get(record.levelno, 6)
        return f"<{priority}>{record.name}: {prefix}{text}".replace("\n", f"\n<{priority}>")


@contextlib.contextmanager
def context(text: str) -> Iterator[None]:
    """Put `text` (a request id, a container) before each line logged inside the block."""
    token = _context.set(text)
    try:
        yield
    finally:
        _context.reset(token)


def configure(level: str, *, journald: bool) -> None:
    """Send all logging to stderr at `level` ("debug", "info", "warning", "error")."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(journald=journald))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("pyroute2").setLevel(logging.WARNING)
