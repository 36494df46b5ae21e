"""Tell systemd how the daemon is: a few datagrams, as sd_notify(3) describes them.

Without systemd every method does nothing. The variables are taken out of the environment at the
start, because runc sees a NOTIFY_SOCKET of its own as a wish to pass it into the container.
"""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping

_log = logging.getLogger(__name__)


class Notifier:
    """A way to talk to the service manager.

    Args:
        address: path of systemd's datagram socket ("@" begins an abstract one); "" for nobody.
        watchdog_s: within how many seconds systemd wants to hear of us; 0.0 for never.
    Source: sd_notify(3), sd_watchdog_enabled(3).
    """

    def __init__(self, address: str = "", *, watchdog_s: float = 0.0) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s = watchdog_s

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> Notifier:
        """Build one from systemd's variables and remove these, so that no child inherits them."""
        address = environment.pop("NOTIFY_SOCKET", "")
        limit_us = environment.pop("WATCHDOG_USEC", "")
        pid = environment.pop("WATCHDOG_PID", "")
        meant = not pid or pid == str(os.getpid())
        watchdog_s = int(limit_us) / 1e6 if limit_us.isdecimal() and meant else 0.0
        return cls(address, watchdog_s=watchdog_s)

    def ready(self) -> None:
        """Say that the start is complete: units ordered after ours may begin."""
        self._send("READY=1")

    def stopping(self, status: str) -> None:
        """Say that the stop has begun, and what it waits for."""
        self._send(f"STOPPING=1\nSTATUS={status}")

    def status(self, text: str) -> None:
        """Say one line for `systemctl status`."""
        self._send(f"STATUS={text}")

    def watchdog(self) -> None:
        """Say that we are alive; due more often than every `watchdog_s`."""
        self._send("WATCHDOG=1")

    def extend_timeout(self, seconds: float) -> None:
        """Ask for `seconds` more, from now on, before a start or stop counts as failed."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            try:
                sender.sendto(text.encode(), socket.MSG_DONTWAIT, self._address)
            except OSError as error:
                # A service manager that does not listen is no reason to stop serving.
                _log.debug("systemd did not take %r: %s", text, error)
