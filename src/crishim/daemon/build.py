"""Builds every object of the daemon from its configuration, and hands each what it needs.

The only place that knows them all; it starts nothing.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from crishim._proto.crishim.v1 import crishim_pb2, crishim_pb2_grpc
from crishim.container.resolve import Resolver
from crishim.containerd.cri import Cri
from crishim.containerd.images import Images
from crishim.containerd.records import Records
from crishim.doctor.examine import examine
from crishim.dump.context import DumpContext
from crishim.dump.dumper import Dumper, Targets
from crishim.flow.handover import Handovers
from crishim.flow.locks import Locks
from crishim.flow.turns import Turns
from crishim.housekeeping.needed import Needed
from crishim.housekeeping.recovery import Recovery
from crishim.housekeeping.removal import Removal
from crishim.network.keeping import Policy
from crishim.restore.context import RestoreContext
from crishim.restore.images import ImageDirectories
from crishim.restore.leftovers import Leftovers
from crishim.restore.preparations import Preparations
from crishim.restore.preparing import Preparing
from crishim.restore.receive import Receiver
from crishim.restore.restore import Restorer
from crishim.restore.restored import Restored
from crishim.restore.revive import Reviver
from crishim.sandbox.addresses import PreservedAddresses
from crishim.sandbox.held import HeldSandboxes
from crishim.sandbox.mptcp import Mptcp
from crishim.server.api.service import CheckpointRestore
from crishim.server.cri.containers import Containers
from crishim.server.cri.execs import Execs
from crishim.server.cri.methods import CriMethods
from crishim.server.cri.sandboxes import PodSandboxes
from crishim.server.guard import Guard
from crishim.server.health import SERVICES
from crishim.store.pins import Pins
from crishim.store.store import Store

if TYPE_CHECKING:
    import grpc

    from crishim.config import Config
    from crishim.server.calls import Calls


@dataclass(frozen=True, slots=True, kw_only=True)
class Flows:
    """The flows of one daemon and what they share."""

    cri: Cri
    images: Images
    store: Store
    pins: Pins
    locks: Locks
    restored: Restored
    held: HeldSandboxes
    needed: Needed
    addresses: PreservedAddresses
    dumper: Dumper
    restorer: Restorer
    leftovers: Leftovers
    receiver: Receiver
    recovery: Recovery


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shared:
    """What the flows have in common."""

    cri: Cri
    records: Records
    resolver: Resolver
    store: Store
    pins: Pins
    locks: Locks
    held: HeldSandboxes
    handovers: Handovers
    preparing: Preparing
    restored: Restored
    needed: Needed
    keeps: Policy
    addresses: PreservedAddresses


def build_flows(config: Config, channel: grpc.aio.Channel) -> Flows:
    """Build the flows of one daemon; nothing is read from disk yet.

    Args: channel: to containerd; not closed here.
    """
    images = Images(channel, namespace=config.containerd.namespace)
    shared = _shared(config, channel, images)
    dumper, context = _dumper(config, shared), _restore_context(config, shared)
    restorer = _restorer(config, shared, context)
    leftovers = restorer.leftovers
    recovery = Recovery(
        paths=config.paths,
        cri=shared.cri,
        records=shared.records,
        held=shared.held,
        addresses=shared.addresses,
        resolver=shared.resolver,
        leftovers=leftovers,
        reviver=context.reviver,
        pins=shared.pins,
        locks=shared.locks,
        connections_wait_s=config.checkpoint.connections_wait_s,
    )
    return Flows(
        cri=shared.cri,
        images=images,
        store=shared.store,
        pins=shared.pins,
        locks=shared.locks,
        restored=shared.restored,
        held=shared.held,
        needed=shared.needed,
        addresses=shared.addresses,
        dumper=dumper,
        restorer=restorer,
        leftovers=leftovers,
        receiver=Receiver(context=context, leftovers=leftovers, handovers=shared.handovers),
        recovery=recovery,
    )


def _shared(config: Config, channel: grpc.aio.Channel, images: Images) -> _Shared:
    paths, network, locks = config.paths, config.network, Locks()
    cri, records = Cri(channel), Records(channel, namespace=config.containerd.namespace)
    store, held, preparing = Store(paths), HeldSandboxes(paths, cri), Preparing()
    keeps = Policy(unmanaged=network.keep_unmanaged, astray=network.keep_astray)
    return _Shared(
        cri=cri,
        records=records,
        resolver=Resolver(cri=cri, records=records, paths=paths),
        store=store,
        pins=Pins(images, store),
        locks=locks,
        held=held,
        handovers=Handovers(),
        preparing=preparing,
        restored=Restored(paths),
        needed=Needed(paths=paths, held=held, preparing=preparing),
        keeps=keeps,
        addresses=PreservedAddresses(
            cri=cri,
            paths=paths,
            held=held,
            recovered=locks.recovered,
            keeps=keeps,
        ),
    )


def _dumper(config: Config, shared: _Shared) -> Dumper:
    return Dumper(
        resolver=shared.resolver,
        records=shared.records,
        store=shared.store,
        turns=Turns(config.checkpoint.parallel),
        targets=Targets(),
        pins=shared.pins,
        context=DumpContext(
            paths=config.paths,
            cri=shared.cri,
            locks=shared.locks,
            held=shared.held,
            refuse_needed=shared.needed.refuse,
            handovers=shared.handovers,
            drain_timeout_s=config.checkpoint.drain_timeout_s,
            layer_files_max=config.checkpoint.layer_files_max,
            keeps=shared.keeps,
        ),
    )


def _restore_context(config: Config, shared: _Shared) -> RestoreContext:
    return RestoreContext(
        cri=shared.cri,
        records=shared.records,
        resolver=shared.resolver,
        paths=config.paths,
        locks=shared.locks,
        addresses=shared.addresses,
        images=ImageDirectories(),
        restored=shared.restored,
        reviver=Reviver(cri=shared.cri, paths=config.paths, restored=shared.restored),
    )


def _restorer(config: Config, shared: _Shared, context: RestoreContext) -> Restorer:
    parallel = config.checkpoint.parallel
    verified = Turns(parallel, what="restores")
    preparations = Preparations(config.paths, context.images, verified)
    return Restorer(
        context=context,
        leftovers=Leftovers(context=context, preparations=preparations),
        preparations=preparations,
        # Of their own: who has verified would stand behind all that are still to be.
        turns=Turns(parallel, what="restores"),
        preparing=shared.preparing,
    )


def build_methods(config: Config, flows: Flows, *, calls: Calls) -> CriMethods:
    """Build our versions of CRI methods."""
    containers = Containers(
        calls=calls,
        cri=flows.cri,
        images=flows.images,
        dumper=flows.dumper,
        restorer=flows.restorer,
        leftovers=flows.leftovers,
        held=flows.held,
        locks=flows.locks,
        store=flows.store,
        restored=flows.restored,
        timeout_s=config.checkpoint.timeout_s,
    )
    sandboxes = PodSandboxes(
        calls=calls,
        cri=flows.cri,
        leftovers=flows.leftovers,
        addresses=flows.addresses,
        mptcp=Mptcp(cri=flows.cri, disable=config.checkpoint.disable_mptcp),
        held=flows.held,
        locks=flows.locks,
    )
    return CriMethods(containers=containers, sandboxes=sandboxes, execs=Execs(locks=flows.locks))


def build_services(
    server: grpc.aio.Server,
    config: Config,
    channel: grpc.aio.Channel,
    *,
    flows: Flows,
    calls: Calls,
) -> health.aio.HealthServicer:
    """Add our own services beside the relay: checkpoint and restore, health, reflection."""
    own = CheckpointRestore(
        cri=flows.cri,
        held=flows.held,
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
