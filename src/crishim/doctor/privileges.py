"""Has a process the privileges that a dump or a restore below it needs?

A dump runs below crishim, a restore below containerd's shim.
Source: capabilities(7), linux/capability.h for the numbers.
"""

from __future__ import annotations

import re

from crishim.doctor.finding import Finding, error, ok, warning

_NEEDED = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FOWNER": 3,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SETPCAP": 8,
    "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13,
    "CAP_SYS_CHROOT": 18,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_MKNOD": 27,
    "CAP_CHECKPOINT_RESTORE": 40,
}
_SYS_RESOURCE = 24


def capabilities(who: str, status: str) -> Finding:
    """Judge the effective capabilities of a process.

    Args:
        who: "crishim" or "containerd".
        status: the text of /proc/PID/status.
    """
    name = f"{who}.capabilities"
    match = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    effective = int(match.group(1), 16) if match else 0
    missing = [text for text, number in _NEEDED.items() if not effective >> number & 1]
    if missing:
        return error(
            name,
            f"{who} lacks {', '.join(missing)}",
            cure=f"run {who} as root, without a CapabilityBoundingSet that takes them",
        )
    if not effective >> _SYS_RESOURCE & 1:
        return warning(
            name,
            f"{who} lacks CAP_SYS_RESOURCE: processes of other users than root cannot be "
            "checkpointed or restored",
            cure=f"run {who} with CAP_SYS_RESOURCE; a container around the node may withhold it",
        )
    return ok(name, f"{who} has all capabilities that it needs")
