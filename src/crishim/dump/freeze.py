"""The pause of a dump: its processes frozen, its connections held, and both let go again.

The steps and their undo stand in `dump`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crishim.aio.lanes import Lane
from crishim.aio.shield import in_thread
from crishim.dump.checks import preflight

if TYPE_CHECKING:
    import contextlib

    from crishim.aio.undo import Undo
    from crishim.dump.prepare import Prepared


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """A dump whose processes stand still.

    Attributes:
        pids: all processes of the container; they do not change any more.
        frozen_at_ns: when the pause began, by the wall clock.
        begun_s: the same by the monotonic clock.
    """

    prepared: Prepared
    pids: tuple[int, ...]
    frozen_at_ns: int
    begun_s: float

    @property
    def elapsed_us(self) -> int:
        """How long the pause has lasted by now."""
        return round((time.monotonic() - self.begun_s) * 1e6)


async def freeze(prepared: Prepared, undo: Undo) -> Frozen:
    """Freeze the processes; `undo` thaws them.

    Raises: NotFound, DeadlineExceeded: as `cgroup.freeze`. Precondition: an exec session that was
        prepared earlier has begun meanwhile. OSError: the guardian has died.
    """
    parts = prepared.parts
    frozen_at_ns, begun_s = time.time_ns(), time.monotonic()
    prepared.guardian.check()
    # Registered first: a cancelled or failed pause may have frozen the container all the same.
    undo.push_async_callback(parts.rollback.thaw)
    pids = await parts.freezer.freeze(parts.workspace)
    # A session that was prepared earlier may have begun while queues were run empty.
    await in_thread(preflight.sessions, parts.source, pids, lane=Lane.PAUSE)
    return Frozen(prepared=prepared, pids=tuple(pids), frozen_at_ns=frozen_at_ns, begun_s=begun_s)


async def hold_connections(frozen: Frozen) -> None:
    """Let nobody answer for the container's connections any more, and say so to who waits."""
    parts = frozen.prepared.parts
    await parts.connections.close(frozen.pids)
    if parts.handover is not None:
        parts.handover.connections_are_held()


async def resume(frozen: Frozen, gate: contextlib.ExitStack) -> None:
    """Let the processes, their execs and connections go on.

    Args: gate: what `drain` has returned.
    """
    parts = frozen.prepared.parts
    await parts.rollback.thaw()
    gate.close()
    await parts.rollback.release()
