"""Does the kernel have what dumps, restores and the hold on connections need?

Behaviour counts, not version numbers, where a try is cheap: a distribution may have taken a feature
back or switched it off. What has to be tried in a network namespace is tried in a new one, which
ends with its thread.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import socket
import struct
import sys

from crishim.doctor.finding import Finding, error, ok, warning
from crishim.errors import CrishimError
from crishim.kernel.net.netns import NetnsThread
from crishim.tools.nft import Nft

_CLONE_NEWNET = 0x40000000
_TCP_REPAIR, _TCP_REPAIR_OFF = 19, 0
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, _NLMSG_ERROR = 4, 20, 0x0301, 2
# What CRIU asks for when it dumps sockets; family, protocol, the kernel's module.
_DIAG = (
    (socket.AF_INET, socket.IPPROTO_TCP, "tcp_diag"),
    (socket.AF_INET, socket.IPPROTO_UDP, "udp_diag"),
    (socket.AF_UNIX, 0, "unix_diag"),
    (socket.AF_PACKET, 0, "af_packet_diag"),
    (socket.AF_NETLINK, 0, "netlink_diag"),
)
_EROFS_FILES = (6, 12)
_EGRESS_RULES = """\
table netdev crishim_doctor {
  chain in { type filter hook ingress device "lo" priority 0; policy accept; }
  chain out { type filter hook egress device "lo" priority 0; policy accept; }
}"""


async def hold() -> Finding:
    """Try the hooks that hold connections, on the loopback of a namespace of its own."""
    async with NetnsThread(None) as thread:
        try:
            await thread.run(_try_hooks)
        except CrishimError as problem:
            return error(
                "kernel.netdev_hooks",
                f"connections cannot be held during a dump: {problem}",
                cure="install libnftables1, and a kernel of 5.16 or newer with nf_tables and "
                "CONFIG_NETFILTER_EGRESS",
            )
        except OSError as problem:
            return error(
                "kernel.netdev_hooks",
                f"a network namespace cannot be made: {problem.strerror}",
                cure="run crishim as root with CAP_SYS_ADMIN",
            )
    return ok("kernel.netdev_hooks", "nftables hooks at ingress and egress of a device work")


def _try_hooks() -> None:
    _unshare_network()
    nft = Nft()
    try:
        nft.run(_EGRESS_RULES)
    finally:
        nft.close()


def _unshare_network() -> None:
    if sys.version_info >= (3, 12):
        os.unshare(_CLONE_NEWNET)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def tcp_repair() -> Finding:
    """Try the socket option by which CRIU takes and gives connections."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, _TCP_REPAIR_OFF)
        except OSError as problem:
            return error(
                "kernel.tcp_repair",
                f"TCP connections cannot be saved: {problem.strerror}",
                cure="give crishim CAP_NET_ADMIN, or run a kernel with CONFIG_CHECKPOINT_RESTORE",
            )
    return ok("kernel.tcp_repair", "TCP connections can be saved and restored (TCP_REPAIR)")


def sock_diag() -> Finding:
    """Ask for each kind of socket that CRIU lists; a kernel without its module says ENOENT."""
    missing = [module for family, protocol, module in _DIAG if not _has_diag(family, protocol)]
    if missing:
        return error(
            "kernel.sock_diag",
            f"the kernel cannot list sockets of some kinds: {', '.join(missing)}",
            cure=f"modprobe {' '.join(missing)}, and see that they are loaded at boot",
        )
    return ok("kernel.sock_diag", "the kernel lists all kinds of sockets that CRIU asks for")


def _has_diag(family: int, protocol: int) -> bool:
    request = struct.pack("=BBHI", family, protocol, 0, 0xFFFFFFFF).ljust(56, b"\0")
    header = struct.pack("=IHHII", 16 + len(request), _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0)
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG
    ) as sock:
        sock.settimeout(5.0)
        sock.send(header + request)
        answer = sock.recv(1 << 16)
    kind, code = struct.unpack_from("=4xH10xi", answer)
    return bool(kind != _NLMSG_ERROR or -code != errno.ENOENT)


def erofs(file_systems: str, *, release: str, mkfs: bool) -> Finding:
    """Judge whether archives can be restored from in place.

    Args:
        file_systems: the text of /proc/filesystems.
        release: the kernel's, such as "6.12.1".
        mkfs: whether mkfs.erofs with --tar is installed.
    """
    able = "erofs" in file_systems.split() and _version(release) >= (_EROFS_FILES)
    if not able:
        return ok("kernel.erofs", "archives are unpacked for a restore (EROFS of 6.12 mounts them)")
    if not mkfs:
        return warning(
            "kernel.erofs",
            "archives are unpacked for a restore, although the kernel could mount them",
            cure="install erofs-utils 1.8 or newer",
        )
    return ok("kernel.erofs", "archives are mounted for a restore, not unpacked")


def _version(release: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match.group(1)), int(match.group(2))) if match else (0, 0)
