"""The daemon from its start to its stop; it decides nothing about calls. `build` makes the rest.

Start: locks, channel to containerd (which may not be there yet), records read (`Recovery.load`),
socket, READY; then, in the background, `Recovery.begin`, `run` once containerd answers, and `tend`
for good.
Stop: STOPPING, new calls refused, running ones waited for, server, socket, channel, locks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from crishim import __version__
from crishim.containerd.channel import open_channel
from crishim.daemon.build import build_flows, build_methods, build_services
from crishim.daemon.signals import Signals
from crishim.errors import InvalidRequest
from crishim.sdnotify import Notifier
from crishim.server.calls import Calls
from crishim.server.drain import REPORT_INTERVAL_S, drain
from crishim.server.health import Watch
from crishim.server.listen import bind, locked, make_directory, new_server
from crishim.server.relay.forwarder import Forwarder
from crishim.server.relay.handler import Relay
from crishim.tools import nft

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

    import grpc

    from crishim.config import Config
    from crishim.daemon.build import Flows

_log = logging.getLogger(__name__)

_TEND_EVERY_S = 60.0
_AGAIN_S = 5.0
"""Until what has failed is tried again."""
_ANSWER_GRACE_S = 1.0
"""For answers on their way out when everything has been waited for."""


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
        await _serve(config, channel, notifier=notifier, signals=Signals())
    _log.info("stopped")
    return 0


async def _serve(
    config: Config, channel: grpc.aio.Channel, *, notifier: Notifier, signals: Signals
) -> None:
    nft.reserve_descriptors()
    calls = Calls()
    forwarder = Forwarder(channel, config.containerd.socket)
    flows = build_flows(config, channel)
    flows.recovery.load()
    methods = build_methods(config, flows, calls=calls)
    server = new_server(
        Relay(
            forwarder,
            calls,
            overrides=methods.overrides(),
            stream_overrides=methods.stream_overrides(),
        )
    )
    servicer = build_services(server, config, channel, flows=flows, calls=calls)
    watch = Watch(channel, config.containerd.socket, servicer=servicer, notifier=notifier)
    listener = bind(server, config.server.socket)
    try:
        serving = asyncio.Event()

        async def recovery() -> None:
            await serving.wait()
            await _keep_in_order(channel, flows, calls)

        async with _background(
            watch=watch.run(), watchdog=_feed_watchdog(notifier), recovery=recovery()
        ) as jobs:
            await server.start()
            _log.info("crishim %s serves at %s", __version__, config.server.socket)
            # Ready as soon as the socket serves, containerd or not: calls are then refused with
            # UNAVAILABLE, as they would be at containerd's own socket. Waiting here would hold up
            # the boot of the node, and could not hold for a containerd that restarts later.
            notifier.ready()
            serving.set()
            await signals.first.wait()
            jobs["recovery"].cancel()
            notifier.stopping("waiting for running calls")
            await servicer.enter_graceful_shutdown()
            _log.info("stopping; running calls have %g s", config.server.stop_grace_s)

            def waiting(text: str) -> None:
                _log.info("%s", text)
                notifier.status(text)
                notifier.extend_timeout(3 * REPORT_INTERVAL_S)

            await drain(
                calls,
                grace_s=config.server.stop_grace_s,
                hurry=signals.second,
                waiting=waiting,
            )
            await asyncio.wait([jobs["recovery"]])
            await server.stop(_ANSWER_GRACE_S)
    finally:
        await server.stop(None)
        listener.remove()


async def _keep_in_order(channel: grpc.aio.Channel, flows: Flows, calls: Calls) -> None:
    """Finish what an earlier daemon began, then tend to the rest; ends only by being cancelled."""
    recovery = flows.recovery
    await _until_done(recovery.begin)

    async def run() -> None:
        # As soon as containerd answers; one that goes away again meanwhile is waited for anew.
        await channel.channel_ready()
        with calls.must_finish("recovery"):
            await recovery.run()

    await _until_done(run)
    while True:
        usual_s = min(_TEND_EVERY_S, recovery.connections_wait_s)
        await asyncio.sleep(min(_AGAIN_S, usual_s) if recovery.restless else usual_s)
        await _until_done(recovery.tend)


async def _until_done(work: Callable[[], Awaitable[None]]) -> None:
    """Do it again, after a pause, until it does not fail; each failure is logged."""
    while True:
        try:
            return await work()
        except Exception:  # noqa: BLE001 - whatever it is, the node is served meanwhile
            _log.exception("recovery is begun again in %g s", _AGAIN_S)
        await asyncio.sleep(_AGAIN_S)


@contextlib.asynccontextmanager
async def _background(
    **jobs: Coroutine[None, None, None],
) -> AsyncIterator[dict[str, asyncio.Task[None]]]:
    """Run endless jobs beside the block; one that fails ends the block with its error."""
    async with asyncio.TaskGroup() as group:
        tasks = {name: group.create_task(job, name=name) for name, job in jobs.items()}
        yield tasks
        for task in tasks.values():
            task.cancel()


async def _feed_watchdog(notifier: Notifier) -> None:
    """Show systemd that the event loop turns; a loop that hangs is restarted."""
    while notifier.watchdog_s:
        notifier.watchdog()
        await asyncio.sleep(notifier.watchdog_s / 3)
