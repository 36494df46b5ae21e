"""Watch containerd and tell everybody how it is: grpc.health.v1, systemd, the log.

Health answers for what a caller can do with us now: SERVING while containerd answers. It never
changes what the relay does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health, health_pb2

from crishim._proto.crishim.v1 import crishim_pb2
from crishim._proto.runtime.v1 import api_pb2, api_pb2_grpc

if TYPE_CHECKING:
    from pathlib import Path

    from crishim.sdnotify import Notifier

_log = logging.getLogger(__name__)

PROBE_INTERVAL_S = 10.0
"""A lost connection is seen at once; this is for a containerd that hangs."""
PROBE_TIMEOUT_S = 5.0

SERVICES = tuple(
    service.full_name
    for file in (api_pb2.DESCRIPTOR, crishim_pb2.DESCRIPTOR)
    for service in file.services_by_name.values()
)
"""Every service of the socket that depends on containerd."""


class Watch:
    """Follows containerd's state.

    Args:
        channel: to containerd.
        socket: where containerd listens, for texts.
        servicer: the health service to keep up to date.
        notifier: systemd.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        socket: Path,
        *,
        servicer: health.aio.HealthServicer,
        notifier: Notifier,
    ) -> None:
        self._channel = channel
        self._socket = socket
        self._servicer = servicer
        self._notifier = notifier
        self._runtime = api_pb2_grpc.RuntimeServiceStub(channel)
        self._last = ""

    async def run(self) -> None:
        """Watch until cancelled."""
        await self._tell(f"waiting for containerd at {self._socket}", serving=False)
        while True:
            # Also makes the channel connect again, which it would otherwise do at the next call.
            state = self._channel.get_state(try_to_connect=True)
            await self._probe()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PROBE_INTERVAL_S):
                    await self._channel.wait_for_state_change(state)

    async def _probe(self) -> None:
        try:
            version = await self._runtime.Version(api_pb2.VersionRequest(), timeout=PROBE_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            text = f"containerd does not answer at {self._socket}; waiting for it"
            await self._tell(text, serving=False, reason=error.details() or "")
        else:
            name = f"{version.runtime_name} {version.runtime_version}"
            await self._tell(f"serving for {name} at {self._socket}", serving=True)

    async def _tell(self, text: str, *, serving: bool, reason: str = "") -> None:
        if text == self._last:
            return
        self._last = text
        if reason:
            _log.warning("%s (%s)", text, reason)
        else:
            _log.info("%s", text)
        self._notifier.status(text)
        kinds = health_pb2.HealthCheckResponse
        status = kinds.SERVING if serving else kinds.NOT_SERVING
        for service in ("", *SERVICES):
            await self._servicer.set(service, status)
