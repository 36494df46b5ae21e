"""End the calls under way when the daemon stops, each kind as it deserves.

New calls are refused and endless streams ended at once; ordinary calls get a grace; what must
finish (a dump, a restore) is waited for without limit, and somebody is told so again and again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from crishim.server.calls import Calls

REPORT_INTERVAL_S = 10.0
"""How often the waiting for what must finish is reported."""
_HURRIED_GRACE_S = 1.0


async def drain(
    calls: Calls, *, grace_s: float, hurry: asyncio.Event, waiting: Callable[[str], None]
) -> None:
    """Refuse new calls and wait for the running ones.

    Args:
        grace_s: how long ordinary calls may go on.
        hurry: once set, they have one second more at most.
        waiting: told what must still finish, at once and every `REPORT_INTERVAL_S`.
    """
    calls.stop()
    idle = asyncio.create_task(calls.until_idle(), name="until idle")
    hurried = asyncio.create_task(hurry.wait(), name="hurry")
    finished = asyncio.create_task(calls.until_finished(), name="until finished")
    try:
        first = asyncio.FIRST_COMPLETED
        await asyncio.wait({idle, hurried}, timeout=grace_s, return_when=first)
        if hurried.done():
            await asyncio.wait({idle}, timeout=_HURRIED_GRACE_S)
        while not finished.done():
            waiting("waiting for " + ", ".join(calls.unfinished))
            await asyncio.wait({finished}, timeout=REPORT_INTERVAL_S)
    finally:
        for task in (idle, hurried, finished):
            task.cancel()
