"""What all dumps of one daemon share. This module must never know one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from crishim.layer.known import FILES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from crishim.containerd.cri import Cri
    from crishim.flow.handover import Handovers
    from crishim.flow.locks import Locks
    from crishim.network import keeping
    from crishim.paths import Paths
    from crishim.sandbox.held import HeldSandboxes


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpContext:
    """What all dumps of one daemon share.

    Attributes:
        refuse_needed: raises if somebody needs an archive, which is never replaced then; blocks.
        drain_timeout_s: how long processes may take to accept what waits, and execs to end.
        keeps: whose addresses can be kept.
        layer_files_max: how many files a container may have of its own.
    """

    paths: Paths
    cri: Cri
    locks: Locks
    held: HeldSandboxes
    refuse_needed: Callable[[Path], None]
    handovers: Handovers
    drain_timeout_s: float
    keeps: keeping.Policy
    layer_files_max: int = FILES_MAX
