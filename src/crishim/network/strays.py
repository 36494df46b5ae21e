"""Find holds without an owner: a pod that is cut off though nobody waits for anything.

Two crashes at a time leave one, of the daemon and of a dump's guardian, or an nftables that refused
to remove it. The pod runs then, and every frame of it is dropped without a word.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from crishim._proto.runtime.v1 import api_pb2
from crishim.errors import CrishimError, RuntimeRefused, ToolFailed
from crishim.network import hold

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from crishim.containerd.cri import Cri
    from crishim.network.hold import HoldRecord

_log = logging.getLogger(__name__)


async def find(cri: Cri) -> AsyncIterator[tuple[str, HoldRecord]]:
    """Yield every hold's table that stands in a live pod, or in the node, and whose it is.

    A pod that goes away meanwhile, or that cannot be looked at, has none.
    """
    for record in await hold.standing(""):
        yield "the node", record
    for item in await cri.sandboxes():
        if item.state != api_pb2.SANDBOX_READY:
            continue
        with contextlib.suppress(CrishimError, RuntimeRefused):
            found = await cri.sandbox(item.id)
            if found.netns:
                pod = f"pod {item.metadata.namespace}/{item.metadata.name} ({item.id[:13]})"
                for record in await hold.standing(found.netns):
                    yield pod, record


async def sweep(cri: Cri, *, owned: Callable[[HoldRecord], bool]) -> None:
    """Remove the holds that nobody owns.

    Args: owned: asked after the table was seen; whoever makes one is its owner before it stands.
    """
    async for whose, record in find(cri):
        if owned(record):
            continue
        try:
            await hold.remove(record)
        except ToolFailed:
            continue  # it belongs to a process that lives, and goes with it
        _log.warning("removed the hold %s, left by a crash, from %s", record.table, whose)
