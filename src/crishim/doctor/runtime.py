"""Are containerd and its runtimes of a kind and a version that crishim works with?"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from crishim.container.resolve import RUNC_RUNTIME
from crishim.doctor.finding import Finding, error, ok, warning
from crishim.errors import CrishimError
from crishim.tools import runc as runcs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crishim.containerd.runtime import Handler, Runtime

_SUPPORTED = ((1, 7), (2, 4))
_SNAPSHOTTER = "overlayfs"
_OLDEST_RUNC = (1, 1)


def version(text: str) -> Finding:
    """Judge containerd's version."""
    oldest, newest = _SUPPORTED
    if oldest <= _numbers(text) <= newest:
        return ok("containerd.version", f"containerd {text}")
    return warning(
        "containerd.version",
        f"containerd {text} is outside the range that crishim is tested with, "
        f"{_dotted(oldest)} to {_dotted(newest)}",
        cure="use a version of that range, or look for a newer crishim",
    )


def snapshotter(found: Runtime) -> Finding:
    """Look for snapshotters without a writable overlay layer to take along."""
    handlers = {h.name: h.snapshotter for h in found.handlers if h.snapshotter}
    others = [f"{name}: {kind}" for name, kind in handlers.items() if kind != _SNAPSHOTTER]
    cure = f'set snapshotter = "{_SNAPSHOTTER}" in containerd\'s configuration'
    if found.snapshotter != _SNAPSHOTTER:
        return error(
            "containerd.snapshotter",
            f"the snapshotter is {found.snapshotter}: the writable layer of containers cannot be "
            "taken along",
            cure=cure,
        )
    if others:
        return warning(
            "containerd.snapshotter",
            f"containers of these handlers have no overlay to take along ({', '.join(others)})",
            cure=cure,
        )
    return ok("containerd.snapshotter", "the snapshotter is overlayfs")


async def handlers(found: Sequence[Handler]) -> list[Finding]:
    """Look at each runtime handler: is it runc, really, and which one?"""
    return [await _handler(handler) for handler in found]


async def _handler(handler: Handler) -> Finding:
    name = f"runc.{handler.name}"
    severity = error if handler.default else warning
    cure = "name a handler of runc as runtimeClass of the pods that are to be checkpointed"
    if handler.runtime != RUNC_RUNTIME:
        return severity(
            name,
            f"containers of the handler {handler.name} ({handler.runtime}) cannot be checkpointed",
            cure=cure,
        )
    try:
        facts = await runcs.facts(handler.binary or "runc")
    except CrishimError as problem:
        return severity(
            name,
            f"the handler {handler.name}: {problem.brief}",
            cure=f"install runc 1.3; or {cure}",
        )
    if _numbers(facts.version) < _OLDEST_RUNC:
        return warning(
            name,
            f"runc {facts.version} is older than what crishim is tested with",
            cure="install runc 1.3 or newer",
        )
    return ok(name, f"the handler {handler.name} is runc {facts.version}")


def _numbers(text: str) -> tuple[int, ...]:
    match = re.match(r"(\d+)\.(\d+)", text)
    return (int(match.group(1)), int(match.group(2))) if match else (0, 0)


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))
