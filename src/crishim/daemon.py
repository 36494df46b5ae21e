"""The composition root: builds every object, starts and stops them in order.

The only place that knows them all; it decides nothing about calls.

Start: locks, channel to containerd (which may not be there yet), socket, READY.
Stop: STOPPING, new calls refused, running ones waited for, server, socket, channel, locks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from typing import TYPE_CHECKING

from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from crishim import __version__
from crishim.containerd.channel import open_channel
from crishim.errors import InvalidRequest
from crishim.sdnotify import Notifier
from crishim.server.guard import Calls
from crishim.server.health import SERVICES, Watch
from crishim.server.listen import bind, locked, make_directory, new_server
from crishim.server.passthrough import Forwarder, Relay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    import grpc

    from crishim.config import Config

_log = logging.getLogger(__name__)

_HURRIED_GRACE_S = 1.0
_ANSWER_GRACE_S = 1.0
"""For answers on their way out when everything has been waited for."""
_EXTENSION_S = 30.0
"""What systemd is asked for, again and again, while something must finish."""


async def serve(config: Config) -> int:
    """Run the daemon until SIGTERM or SIGINT; return the exit status.

    A second signal shortens the grace of running calls. A dump or a restore is always waited for.
    Raises:
        Busy: another instance runs.
        Precondition, InvalidRequest: the socket cannot be where the configuration wants it.
    """
    if config.server.socket == config.containerd.socket:
        raise InvalidRequest(f"[server] and [containerd] name one socket, {config.server.socket}")
    notifier = Notifier.from_environment()
    signals = _Signals()
    make_directory(config.paths.run)
    make_directory(config.server.socket.parent)
    async with contextlib.AsyncExitStack() as stack:
        # Two locks: the first guards the state, which two daemons must not share; the second guards
        # the socket, which another configuration may name.
        stack.enter_context(locked(config.paths.lock))
        socket = config.server.socket
        stack.enter_context(locked(socket.with_name(f"{socket.name}.lock")))
        channel = open_channel(config.containerd.socket)
        stack.push_async_callback(channel.close)
        await _serve(config, channel, notifier=notifier, signals=signals)
    _log.info("stopped")
    return 0


async def _serve(
    config: Config, channel: grpc.aio.Channel, *, notifier: Notifier, signals: _Signals
) -> None:
    calls = Calls()
    forwarder = Forwarder(channel, config.containerd.socket)
    server = new_server(Relay(forwarder, calls, overrides={}, stream_overrides={}))
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    watch = Watch(channel, config.containerd.socket, servicer=servicer, notifier=notifier)
    listener = bind(server, config.server.socket)
    try:
        async with _background(watch=watch.run(), watchdog=_feed_watchdog(notifier)):
            await server.start()
            _log.info("crishim %s serves at %s", __version__, config.server.socket)
            # Ready as soon as the socket serves, containerd or not: calls are then refused with
            # UNAVAILABLE, as they would be at containerd's own socket. Waiting here would hold up
            # the boot of the node, and could not hold for a containerd that restarts later.
            notifier.ready()
            await signals.first.wait()
            notifier.stopping("waiting for running calls")
            await servicer.enter_graceful_shutdown()
            await _drain(calls, notifier=notifier, signals=signals, config=config)
            await server.stop(_ANSWER_GRACE_S)
    finally:
        await server.stop(None)
        listener.remove()


async def _drain(calls: Calls, *, notifier: Notifier, signals: _Signals, config: Config) -> None:
    """Refuse new calls and wait for the running ones, each kind as long as it deserves."""
    calls.stop()
    _log.info("stopping; running calls have %g s", config.server.stop_grace_s)
    idle = asyncio.create_task(calls.until_idle(), name="until idle")
    hurry = asyncio.create_task(signals.second.wait(), name="second signal")
    finished = asyncio.create_task(calls.until_finished(), name="until finished")
    try:
        await asyncio.wait(
            {idle, hurry},
            timeout=config.server.stop_grace_s,
            return_when=asyncio.FIRST_COMPLETED,
        )
        await asyncio.wait({idle}, timeout=_HURRIED_GRACE_S if hurry.done() else 0)
        while not finished.done():
            text = "waiting for " + ", ".join(calls.unfinished)
            _log.info("%s", text)
            notifier.status(text)
            notifier.extend_timeout(_EXTENSION_S)
            await asyncio.wait({finished}, timeout=_EXTENSION_S / 3)
    finally:
        for task in (idle, hurry, finished):
            task.cancel()


class _Signals:
    """SIGTERM and SIGINT as events; a third and later one change nothing."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._received)

    def _received(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


@contextlib.asynccontextmanager
async def _background(**jobs: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Run endless jobs beside the block; one that fails ends the block with its error."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(job, name=name) for name, job in jobs.items()]
        yield
        for task in tasks:
            task.cancel()


async def _feed_watchdog(notifier: Notifier) -> None:
    """Show systemd that the event loop turns; a loop that hangs is restarted."""
    while notifier.watchdog_s:
        notifier.watchdog()
        await asyncio.sleep(notifier.watchdog_s / 3)
