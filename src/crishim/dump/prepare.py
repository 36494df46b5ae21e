"""Everything of a dump that needs no pause, step by step: from `preflight` to `drain`.

A container that is to be stopped breaks it off; what was made by then is the undo's. The steps and
their undo stand in `dump`.
"""

from __future__ import annotations

import contextlib
import functools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crishim.aio.lanes import Lane
from crishim.aio.shield import in_thread, made_in_thread, to_the_end
from crishim.archive.appearance import refuse_taken
from crishim.archive.writer import ArchiveWriter
from crishim.container import describe
from crishim.dump import remaps, watches
from crishim.dump.checks import preflight, threads
from crishim.dump.guardian import Guardian
from crishim.dump.ownfiles import OwnFilesDump
from crishim.dump.trail import Trail
from crishim.errors import Precondition
from crishim.kernel import process, procs
from crishim.sandbox.heldrecord import HeldContainer
from crishim.tools import criu

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from crishim.aio.undo import Undo
    from crishim.dump.parts import Parts
    from crishim.kernel.net.interface import InterfaceState
    from crishim.sandbox.heldrecord import HeldRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A dump that lacks nothing but the pause.

    Attributes:
        writer: the archive, of which the first passes over the layer are written.
        guardian: watches over the pause.
        record: on disk, of a source that is to end; None for one that goes on.
        interfaces: the pod's.
        trail: follows what arrives in the archive; None if nobody waits for it.
        remaps: open files need links that CRIU makes for its dump only; see `remaps.expect`.
        expected_bytes: about what the memory will take.
    """

    parts: Parts
    tools: describe.Tools
    writer: ArchiveWriter
    files: OwnFilesDump
    guardian: Guardian
    record: HeldRecord | None
    interfaces: tuple[InterfaceState, ...]
    trail: Trail | None
    remaps: bool
    expected_bytes: int


async def prepare(parts: Parts, undo: Undo) -> Prepared:
    """Do everything that needs neither a pause nor that nobody begins anything new.

    Args: undo: takes back what is made here.
    Raises: as `Dumper.dump`. On cancel: between two pieces of work; what was made is the undo's.
    """
    step, source = parts.phases.step, parts.source
    with step("preflight"):
        tools = await describe.tools(source)
        pids = await _preflight(parts)
    with step("prepare"):
        await parts.workspace.open(undo, criu_config=await _criu_config(parts, pids))
        writer = await _archive(parts, undo)
        undo.push_async_callback(parts.rollback.forget_for_good)
        undo.push_async_callback(parts.rollback.release)
        interfaces = await parts.connections.prepare()
    with step("layer"):
        files_max = parts.context.layer_files_max
        own_files = OwnFilesDump(source, writer, pids=parts.freezer.read, files_max=files_max)
        async with parts.phases.advancing("layer", lambda: own_files.copied_bytes):
            await own_files.first_pass()
    with step("blocks"):
        expected_bytes = await in_thread(procs.memory_bytes, pids)
        trail = await _blocks(parts, writer, undo, expected_bytes=expected_bytes)
    with step("guard"):
        guardian = await _guard(parts, writer, undo)
        record = None
        if parts.request.stop:
            record = await _announce(parts, writer, undo, interfaces=interfaces)
    with step("changes"):
        await own_files.catch_up()
        # What this took of the archive's blocks is made anew.
        await in_thread(writer.prepare, expected_bytes, lane=Lane.BULK)
        links = await in_thread(remaps.expect, parts.workspace, remaps.places(source), pids)
        await parts.gatherer.before_pause(undo, pids)
    return Prepared(
        parts=parts,
        tools=tools,
        writer=writer,
        files=own_files,
        guardian=guardian,
        record=record,
        interfaces=interfaces,
        trail=trail,
        remaps=links,
        expected_bytes=expected_bytes,
    )


async def drain(prepared: Prepared, undo: Undo) -> contextlib.ExitStack:
    """Let no exec begin, those that run come to their end, and accept queues run empty.

    Returns: what to close for execs to begin again; `undo` does so too.
    Raises: Precondition: connections still wait to be accepted, or an exec still runs.
    """
    parts = prepared.parts
    locks, container = parts.context.locks, parts.source.container.id
    timeout_s = parts.context.drain_timeout_s
    gate = undo.enter_context(contextlib.ExitStack())
    gate.enter_context(locks.no_execs(container))
    await locks.execs_ended(container, timeout_s=timeout_s)
    pids = await parts.freezer.processes()
    await in_thread(preflight.sessions, parts.source, pids)
    await parts.connections.drain(pids, timeout_s=timeout_s)
    return gate


async def _preflight(parts: Parts) -> list[int]:
    """Refuse what cannot work; return the ids of the processes as they are now."""
    source, request, target = parts.source, parts.request, _target(parts)
    await in_thread(lambda: refuse_taken(target, replace=_replace(parts)), lane=Lane.BULK)
    pids = await parts.freezer.processes()
    # An exec of ours, such as a probe, will have ended before the pause, with all it has open.
    if parts.context.locks.execs(source.container.id):
        pids = await in_thread(preflight.tree, source, pids)
    await in_thread(preflight.sessions, source, pids)
    await preflight.network(source, request, parts.context.keeps)
    await preflight.check(source, request, pids=pids, target=target)
    parts.phases.lose(await in_thread(threads.check, source.container.spec, pids))
    return pids


async def _criu_config(parts: Parts, pids: list[int]) -> str:
    watched = await in_thread(watches.criu_config, parts.source.container.pid, pids)
    return criu.dump_config(tcp_close=parts.request.tcp == "close") + watched


def _target(parts: Parts) -> Path:
    assert parts.request.output is not None
    return parts.request.output


def _replace(parts: Parts) -> Callable[[], None] | None:
    """Return what is asked before a file that has the target's name is replaced; None: never."""
    if not parts.request.replace:
        return None
    return functools.partial(parts.context.refuse_needed, _target(parts))


async def _archive(parts: Parts, undo: Undo) -> ArchiveWriter:
    # Until the guardian is there only this tells a new daemon where a half archive lies.
    target = _target(parts)
    parts.workspace.note_directory(target.parent)
    return await made_in_thread(
        undo,
        lambda: ArchiveWriter.create(target, replace=_replace(parts)),
        ArchiveWriter.abort,
    )


async def _blocks(
    parts: Parts, writer: ArchiveWriter, undo: Undo, *, expected_bytes: int
) -> Trail | None:
    """Make blocks exist, which shortens the pause and finds a full disk before it.

    Where the archive is going to be waited for, what can be known of it is computed ahead too.
    """
    await in_thread(writer.prepare, expected_bytes, lane=Lane.BULK)
    if parts.request.stop:
        await in_thread(writer.digest, lane=Lane.BULK)
    if parts.handover is None:
        return None
    trail = Trail(writer.fd, parts.handover.image_directory)
    undo.push_async_callback(in_thread, trail.abandon, lane=Lane.PAUSE)
    await in_thread(trail.prepare, expected_bytes, lane=Lane.BULK)
    return trail


async def _guard(parts: Parts, writer: ArchiveWriter, undo: Undo) -> Guardian:
    hold, stop = parts.connections.hold, parts.request.stop
    guardian = Guardian(
        dump=parts.workspace.path,
        partial=writer.partial,
        # Without `stop` the container goes on, whatever becomes of the archive.
        target=writer.target if stop else None,
        freezer=parts.freezer.directory,
        # Only a hold that outlasts the daemon is to be lifted by somebody else.
        hold=hold.record.to_json() if hold and stop else None,
        locked=(writer.fd, parts.workspace.lock),
    )
    undo.push_async_callback(parts.rollback.dismiss, guardian)
    await to_the_end(guardian.start(process.environment()))
    return guardian


async def _announce(
    parts: Parts,
    writer: ArchiveWriter,
    undo: Undo,
    *,
    interfaces: tuple[InterfaceState, ...],
) -> HeldRecord:
    """Write down what `stop` is going to mean, while a durable write costs nobody a pause."""
    held, sandbox = parts.context.held, parts.source.sandbox
    if held.records.of_sandbox(sandbox.id):  # its record is not ours to replace or forget
        raise Precondition("a container of the pod was stopped by a checkpoint meanwhile")
    undo.push_async_callback(parts.rollback.forget)
    status = os.fstat(writer.fd)
    container = HeldContainer.of(
        parts.source, archive=writer.target, inode=status.st_ino, device=status.st_dev
    )
    record = await held.announce(sandbox, [container], parts.connections.hold, interfaces)
    parts.rollback.announced(record, writer)
    return record
