"""Do pods run here that were made before crishim and cannot be checkpointed for it?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crishim.doctor.finding import Finding, ok, warning
from crishim.errors import NotFound, Precondition, RuntimeRefused
from crishim.kernel.net.netns import NetnsThread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crishim.containerd.cri import Cri

_SYSCTL = "/proc/sys/net/mptcp/enabled"
_MOST = 5


async def mptcp(cri: Cri) -> Finding:
    """Look into the network namespace of each pod."""
    found = []
    for item in await cri.sandboxes():
        try:
            sandbox = await cri.sandbox(item.id)
            if sandbox.ready and sandbox.netns and await _enabled(sandbox.netns):
                found.append(f"{item.metadata.namespace}/{item.metadata.name}")
        except (NotFound, Precondition, RuntimeRefused):
            continue  # it went away meanwhile
    return judge(found)


def judge(names: Sequence[str]) -> Finding:
    """Judge which pods have MPTCP switched on."""
    if not names:
        return ok("pods.mptcp", "MPTCP is off in all pods")
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return warning(
        "pods.mptcp",
        "MPTCP is on in pods that are older than crishim, or whose own sysctls ask for it: "
        f"{', '.join(names[:_MOST])}{more}; CRIU refuses listeners of Go programs there",
        cure="make these pods anew, or set net.mptcp.enabled=0 in them and restart their programs",
    )


async def _enabled(netns: str) -> bool:
    async with NetnsThread(netns) as thread:
        return await thread.run(_read) == "1"


def _read() -> str:
    # procfs shows the namespace of the thread that opens the file.
    try:
        with open(_SYSCTL, encoding="ascii") as file:
            return file.read().strip()
    except FileNotFoundError:
        return "0"
