"""Which device nodes a writable layer may bring into a container.

The same answer counts when a layer is captured and when it is written: a node that no restore would
make must not be found out after its container is gone.
Source: runc 1.3, libcontainer/specconv/spec_linux.go, `AllowedDevices`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_EVERYBODYS = frozenset(
    (True, major, minor)
    for major, minor in ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2))
)
"""null, zero, full, random, urandom, tty and ptmx, which runc lets every container use."""


def allowed(spec: Mapping[str, Any]) -> Callable[[bool, int, int], bool]:
    """Return a test: may the container have this device node (is character, major, minor)?

    It may if everybody may, or if its own specification lists the device: the layer of a checkpoint
    cannot bring in more.

    Args: spec: its OCI runtime spec.
    """
    devices = _EVERYBODYS | {
        (item.get("type") in ("c", "u"), item.get("major"), item.get("minor"))
        for item in spec.get("linux", {}).get("devices") or []
    }
    return lambda is_character, major, minor: (is_character, major, minor) in devices
