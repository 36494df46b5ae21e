"""MPTCP off in new sandboxes: CRIU refuses its sockets, and programs get it without asking."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crishim.errors import CrishimError, RuntimeRefused
from crishim.kernel.net.netns import NetnsThread

if TYPE_CHECKING:
    from crishim.containerd.cri import Cri
    from crishim.ids import SandboxId

_log = logging.getLogger(__name__)
_MPTCP = Path("/proc/sys/net/mptcp/enabled")
SYSCTL = "net.mptcp.enabled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mptcp:
    """Whether new sandboxes have MPTCP; `disable`: see `CheckpointConfig`."""

    cri: Cri
    disable: bool

    async def started(self, sandbox: SandboxId) -> None:
        """Make a new sandbox's namespace fit for checkpoints; what fails here costs no pod."""
        if not self.disable or not _MPTCP.exists():
            return
        try:
            found = await self.cri.sandbox(sandbox)
            if found.netns:
                async with NetnsThread(found.netns) as thread:
                    await thread.run(_MPTCP.write_text, "0")
        except (CrishimError, RuntimeRefused, OSError) as error:
            _log.warning("MPTCP stays on in sandbox %s: %s", sandbox[:13], error)
