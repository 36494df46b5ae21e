"""What one dump works with from its first step to its last. This module must never know a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from crishim.dump.connections import SourceConnections
from crishim.dump.freezer import Freezer
from crishim.dump.gather import Gatherer
from crishim.dump.rollback import Rollback
from crishim.dump.shm import SharedMemoryDump
from crishim.dump.workspace import Workspace
from crishim.tools import runc as runcs

if TYPE_CHECKING:
    from crishim.container.resolve import Source
    from crishim.dump.context import DumpContext
    from crishim.dump.request import DumpRequest
    from crishim.flow.handover import Handover
    from crishim.flow.phases import Phases


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts of one container's dump.

    Attributes:
        request: names the output.
        handover: the restore that waits for this dump; None if none does.
        gatherer: looks for what CRIU drops.
        shared_memory: the pod's.
    """

    context: DumpContext
    source: Source
    request: DumpRequest
    phases: Phases
    handover: Handover | None
    workspace: Workspace
    connections: SourceConnections
    freezer: Freezer
    gatherer: Gatherer
    shared_memory: SharedMemoryDump
    rollback: Rollback

    @classmethod
    def make(
        cls,
        context: DumpContext,
        source: Source,
        request: DumpRequest,
        *,
        phases: Phases,
        handover: Handover | None = None,
    ) -> Self:
        """Make the parts of one dump; nothing is touched yet."""
        container, paths = source.container, context.paths
        workspace = Workspace(paths.dump(container.id), paths.logs / f"dump-{container.id[:13]}")
        connections = SourceConnections(source, lasting=request.stop)
        freezer = Freezer(runcs.cgroup_of(source.runc, container.id))
        return cls(
            context=context,
            source=source,
            request=request,
            phases=phases,
            handover=handover,
            workspace=workspace,
            connections=connections,
            freezer=freezer,
            gatherer=Gatherer(source.sandbox.netns, container.pid, ends=request.stop),
            shared_memory=SharedMemoryDump(container.spec),
            rollback=Rollback(
                source,
                ends=request.stop,
                held=context.held,
                workspace=workspace,
                freezer=freezer,
                connections=connections,
            ),
        )
