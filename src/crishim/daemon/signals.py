"""The signals that stop the daemon, as events."""

from __future__ import annotations

import asyncio
import signal


class Signals:
    """SIGTERM and SIGINT as events; a third and later one change nothing."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._received)

    def _received(self) -> None:
        (self.second if self.first.is_set() else self.first).set()
