"""Is a pod cut off by a hold that no checkpoint and no restore owns any more?

The daemon removes such holds when it starts; one that is found while it runs is a defect, or was
left by a daemon that has not started again.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from crishim.aio.shield import in_thread
from crishim.doctor.finding import Finding, error, ok
from crishim.errors import Corrupt
from crishim.network import address, strays
from crishim.sandbox import heldrecord

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from crishim.containerd.cri import Cri
    from crishim.network.hold import HoldRecord
    from crishim.paths import Paths

_PASSES_S = 1.0
"""A hold that no record names, of a checkpoint that does not stop its container, is short."""


async def stray(cri: Cri, paths: Paths) -> Finding:
    """Look for holds in all live pods and in the node."""
    first = {record async for _, record in strays.find(cri)}
    if first:
        await asyncio.sleep(_PASSES_S)
    found = [(whose, record) async for whose, record in strays.find(cri) if record in first]
    return judge(found, *await in_thread(_records, paths))


def judge(found: Collection[tuple[str, HoldRecord]], records: bytes, working: bool) -> Finding:
    """Judge holds that stand.

    Args: found: whose, and which. records: all that is written down of holds and addresses.
        working: dumps are under way, to which they may belong.
    """
    unknown = [whose for whose, hold in found if not _is_named(hold, records)]
    if not unknown:
        return ok("pods.holds", "no pod is cut off but those that a checkpoint has stopped")
    if working:
        return ok("pods.holds", "holds are not looked at while a checkpoint is under way")
    return error(
        "pods.holds",
        f"every packet is dropped for {', '.join(sorted(set(unknown)))}, and nothing says why",
        cure="restart crishim, which removes what a crash has left",
    )


def _is_named(hold: HoldRecord, records: bytes) -> bool:
    """Return whether a record names a hold, or the pod that it stands in because it arrives."""
    return hold.table.encode() in records or (bool(hold.netns) and hold.netns.encode() in records)


def _records(paths: Paths) -> tuple[bytes, bool]:
    texts = [_stopped(_read(path)) for path in _in(paths.held)]
    texts += [_arriving(_read(path)) for path in _in(paths.sandboxes)]
    return b"".join(texts), bool(_in(paths.dumps))


def _stopped(text: bytes) -> bytes:
    """Return what a record names, and the hold of the node, which follows from it."""
    with contextlib.suppress(Corrupt):
        if (node_hold := heldrecord.CODEC.decode(text).node_hold) is not None:
            return text + node_hold.table.encode()
    return text


def _arriving(text: bytes) -> bytes:
    """Return what a record names; one that has arrived needs no hold any more."""
    with contextlib.suppress(Corrupt):
        if address.CODEC.decode(text).released:
            return b""
    return text


def _in(directory: Path) -> list[Path]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return list(directory.iterdir())
    return []


def _read(path: Path) -> bytes:
    with contextlib.suppress(FileNotFoundError, IsADirectoryError):
        return path.read_bytes()
    return b""
