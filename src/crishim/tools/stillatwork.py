"""Wait until no runc and no CRIU works in a directory any more.

`atwork` tells which one does; this module must never end it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import TYPE_CHECKING

from crishim.aio.shield import in_thread
from crishim.errors import Unavailable
from crishim.tools import atwork

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_log = logging.getLogger(__name__)
_POLL_S = 0.02


class StillAtWork(Unavailable):
    """A runc, a CRIU or a guardian of an earlier daemon has not come to its end yet."""


async def tools_ended(
    directory: Path, *, wait_s: float = math.inf, meanwhile: Callable[[], object] = bool
) -> bool:
    """Wait until no runc and no CRIU works below a directory; return whether one did.

    Args: wait_s: how long; one look there is in any case.
        meanwhile: called again and again until then; it may block for a moment.
    Raises: StillAtWork: one does still.
    """
    until = time.monotonic() + wait_s
    worked, pid = False, 0
    while True:
        try:
            if pid and atwork.is_tool(pid, directory):
                await in_thread(meanwhile)
            elif pid := await in_thread(atwork.tool_of, directory):
                worked = True
                continue
            else:
                return worked
        except OSError as error:  # too many files are open, for instance: nobody knows
            _log.warning("cannot look for what works in %s: %s", directory, error)
        if time.monotonic() >= until:
            raise StillAtWork(f"a runc or CRIU is at work in {directory}, or may be")
        await asyncio.sleep(_POLL_S)
