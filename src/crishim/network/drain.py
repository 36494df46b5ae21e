"""Wait until no connection of a pod is in a state that a dump cannot hold.

CRIU refuses a listener with connections that nobody has accepted; half-open requests and sockets
that their process has closed belong to no process and would be lost with the pod. The caller has
already stopped new connections from beginning. Only looking and waiting happens here.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from crishim.errors import Precondition
from crishim.kernel.net.sockdiag import CLOSING, HALF_OPEN, InetSocket, SockDiag, TcpState

if TYPE_CHECKING:
    from collections.abc import Collection

    from crishim.kernel.net.netns import NetnsThread

_POLL_S = 0.002
# A closed socket waits for the far side's word, which may never come. Connections to be kept are
# worth more than the last bytes of those; they get this long.
_ORPHANS_S = 0.2


async def drain(
    inside: NetnsThread,
    *,
    timeout_s: float,
    listeners: Collection[int] | None = None,
    orphans: bool,
) -> None:
    """Wait until accept queues and half-open requests are gone.

    Args:
        inside: a thread in the pod's network namespace.
        timeout_s: how long the processes may take to accept what waits.
        listeners: inodes of the listening sockets that count; None for all of the namespace.
        orphans: wait a little for closed sockets with unsent data too, because the pod will end.
    Raises:
        Precondition: connections still wait to be accepted; the listeners are named.
    """
    begun = time.monotonic()
    diag = await inside.run(SockDiag)
    try:
        while True:
            wanted = [TcpState.LISTEN, *HALF_OPEN, *(CLOSING if orphans else ())]
            sockets = await inside.run(diag.tcp, wanted)
            waiting = unaccepted(sockets, listeners)
            spent_s = time.monotonic() - begun
            closing = any(item.state in CLOSING and item.send_queue > 0 for item in sockets)
            if not waiting and not (closing and spent_s < _ORPHANS_S):
                return
            if waiting and spent_s > timeout_s:
                raise Precondition(
                    "connections are waiting to be accepted",
                    details=", ".join(waiting),
                    hint="the process does not accept them; try again later",
                )
            await asyncio.sleep(_POLL_S)
    finally:
        diag.close()


def unaccepted(sockets: Collection[InetSocket], listeners: Collection[int] | None) -> list[str]:
    """Name each listener that has connections waiting or half open, with how many."""
    counted = [
        item
        for item in sockets
        if item.state == TcpState.LISTEN and (listeners is None or item.inode in listeners)
    ]
    found = []
    for listener in counted:
        half = sum(
            item.state in HALF_OPEN and item.local_port == listener.local_port for item in sockets
        )
        if listener.receive_queue or half:
            found.append(f"{listener.local_end} ({listener.receive_queue} waiting, {half} half)")
    return found
