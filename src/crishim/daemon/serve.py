"""The composition root: builds every object, starts and stops them in order.

The only place that knows them all; it decides nothing about calls.

Start: locks, channel to containerd (which may not be there yet), records read (`Recovery.load`),
socket, READY; then, in the background, `Recovery.begin`, `run` once containerd answers, and `tend`
for good.
Stop: STOPPING, new calls refused, running ones waited for, server, socket, channel, locks.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from crishim import __version__
from crishim._proto.crishim.v1 import crishim_pb2, crishim_pb2_grpc
from crishim.containerd.channel import open_channel
from crishim.containerd.cri import Cri
from crishim.containerd.images import Images
from crishim.containerd.records import Records
from crishim.doctor.examine import examine
from crishim.dump.context import DumpContext
from crishim.dump.dumper import Dumper, Targets
from crishim.errors import InvalidRequest
from crishim.flow.handover import Handovers
from crishim.flow.locks import Locks
from crishim.flow.turns import Turns
from crishim.housekeeping.needed import Needed
from crishim.housekeeping.recovery import Recovery
from crishim.housekeeping.removal import Removal
from crishim.network.keeping import Policy
from crishim.restore.images import ImageDirectories
from crishim.restore.preparations import Preparations
from crishim.restore.preparing import Preparing
from crishim.restore.receive import Receiver
from crishim.restore.restore import Restorer
from crishim.restore.restored import Restored
from crishim.restore.revive import Reviver
from crishim.sandbox.addresses import Sandboxes
from crishim.sandbox.held import Held
from crishim.sdnotify import Notifier
from crishim.server.api.service import CheckpointRestore
from crishim.server.cri.methods import CriMethods
from crishim.server.drain import REPORT_INTERVAL_S, drain
from crishim.server.guard import Calls, Guard
from crishim.server.health import SERVICES, Watch
from crishim.server.listen import bind, locked, make_directory, new_server
from crishim.server.relay.handler import Forwarder, Relay
from crishim.store.pins import Pins
from crishim.store.store import Store
from crishim.tools import nft

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

    import grpc

    from crishim.config import Config

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
        await _serve(config, channel, notifier=notifier, signals=_Signals())
    _log.info("stopped")
    return 0


async def _serve(
    config: Config, channel: grpc.aio.Channel, *, notifier: Notifier, signals: _Signals
) -> None:
    nft.reserve_descriptors()
    calls = Calls()
    forwarder = Forwarder(channel, config.containerd.socket)
    flows = _flows(config, channel)
    flows.recovery.load()
    methods = _methods(config, flows, forwarder=forwarder, calls=calls)
    server = new_server(
        Relay(
            forwarder,
            calls,
            overrides=methods.overrides(),
            stream_overrides=methods.stream_overrides(),
        )
    )
    servicer = _register(server, config, channel, flows=flows, calls=calls)
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


def _register(
    server: grpc.aio.Server,
    config: Config,
    channel: grpc.aio.Channel,
    *,
    flows: _Flows,
    calls: Calls,
) -> health.aio.HealthServicer:
    """Add our own services beside the relay: checkpoint and restore, health, reflection."""
    own = CheckpointRestore(
        dumper=flows.dumper,
        restorer=flows.restorer,
        receiver=flows.receiver,
        store=flows.store,
        calls=calls,
        timeout_s=config.checkpoint.timeout_s,
        removal=Removal(
            store=flows.store,
            needed=flows.needed,
            pins=flows.pins,
            held=flows.held,
        ),
        examine=functools.partial(examine, config, channel),
    )
    Guard(calls).servicer(own, crishim_pb2.DESCRIPTOR.services_by_name["CheckpointRestore"])
    crishim_pb2_grpc.add_CheckpointRestoreServicer_to_server(own, server)
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    return servicer


@dataclass(frozen=True, slots=True, kw_only=True)
class _Flows:
    """The flows of one daemon and what they share."""

    cri: Cri
    images: Images
    store: Store
    pins: Pins
    locks: Locks
    restored: Restored
    held: Held
    needed: Needed
    sandboxes: Sandboxes
    dumper: Dumper
    restorer: Restorer
    receiver: Receiver
    recovery: Recovery


def _flows(config: Config, channel: grpc.aio.Channel) -> _Flows:
    paths, namespace = config.paths, config.containerd.namespace
    cri, records = Cri(channel), Records(channel, namespace=namespace)
    store, locks, restored = Store(paths), Locks(), Restored(paths)
    images = Images(channel, namespace=namespace)
    pins = Pins(images, store)
    held, handovers, preparing = Held(paths, cri), Handovers(), Preparing()
    needed = Needed(paths=paths, held=held, preparing=preparing)
    keeps = Policy(unmanaged=config.network.keep_unmanaged, astray=config.network.keep_astray)
    sandboxes = Sandboxes(
        cri=cri,
        paths=paths,
        held=held,
        recovered=locks.recovered,
        disable_mptcp=config.checkpoint.disable_mptcp,
        keeps=keeps,
    )
    dumper = Dumper(
        cri=cri,
        records=records,
        namespace=namespace,
        store=store,
        turns=Turns(config.checkpoint.parallel),
        targets=Targets(),
        pins=pins,
        context=DumpContext(
            paths=paths,
            cri=cri,
            locks=locks,
            held=held,
            refuse_needed=needed.refuse,
            handovers=handovers,
            drain_timeout_s=config.checkpoint.drain_timeout_s,
            layer_files_max=config.checkpoint.layer_files_max,
            keeps=keeps,
        ),
    )
    images_made, restores = ImageDirectories(), Turns(config.checkpoint.parallel, what="restores")
    restorer = Restorer(
        cri=cri,
        records=records,
        paths=paths,
        namespace=namespace,
        sandboxes=sandboxes,
        locks=locks,
        images=images_made,
        preparations=Preparations(paths, images_made, restores),
        # Of their own: who has verified would stand behind all that are still to be.
        turns=Turns(config.checkpoint.parallel, what="restores"),
        restored=restored,
        reviver=Reviver(cri=cri, paths=paths, restored=restored),
        preparing=preparing,
    )
    recovery = Recovery(
        paths=paths,
        cri=cri,
        records=records,
        held=held,
        sandboxes=sandboxes,
        restorer=restorer,
        pins=pins,
        locks=locks,
        connections_wait_s=config.checkpoint.connections_wait_s,
    )
    return _Flows(
        cri=cri,
        images=images,
        store=store,
        pins=pins,
        locks=locks,
        restored=restored,
        held=held,
        needed=needed,
        sandboxes=sandboxes,
        dumper=dumper,
        restorer=restorer,
        receiver=Receiver(restorer=restorer, handovers=handovers),
        recovery=recovery,
    )


def _methods(config: Config, flows: _Flows, *, forwarder: Forwarder, calls: Calls) -> CriMethods:
    return CriMethods(
        forwarder=forwarder,
        calls=calls,
        cri=flows.cri,
        images=flows.images,
        dumper=flows.dumper,
        restorer=flows.restorer,
        sandboxes=flows.sandboxes,
        held=flows.held,
        locks=flows.locks,
        store=flows.store,
        restored=flows.restored,
        timeout_s=config.checkpoint.timeout_s,
    )


async def _keep_in_order(channel: grpc.aio.Channel, flows: _Flows, calls: Calls) -> None:
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
