"""The table of the CRI methods that crishim changes: each calls a flow, or passes its request on.

Everything else of CRI goes through the relay without being parsed. Fields that our protos do not
know survive, because a request is passed on as the message that was read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crishim.server.cri.containers import Containers
    from crishim.server.cri.execs import Execs
    from crishim.server.cri.sandboxes import PodSandboxes
    from crishim.server.relay.overrides import Override, StreamOverride

_RUNTIME = "/runtime.v1.RuntimeService/"


@dataclass(frozen=True, slots=True, kw_only=True)
class CriMethods:
    """Our versions of CRI methods."""

    containers: Containers
    sandboxes: PodSandboxes
    execs: Execs

    def overrides(self) -> dict[str, Override]:
        """Return the methods with one answer, by their full names."""
        containers, sandboxes, execs = self.containers, self.sandboxes, self.execs
        methods = (
            containers.CheckpointContainer, containers.CreateContainer, containers.StartContainer,
            containers.StopContainer, containers.RemoveContainer, execs.ExecSync, execs.Exec,
            sandboxes.RunPodSandbox, sandboxes.PodSandboxStatus, sandboxes.StopPodSandbox,
            sandboxes.RemovePodSandbox,
        )  # fmt: skip
        return {_RUNTIME + method.__name__: method for method in methods}

    def stream_overrides(self) -> dict[str, StreamOverride]:
        """Return the server-streaming methods, by their full names."""
        return {_RUNTIME + "GetContainerEvents": self.sandboxes.GetContainerEvents}
