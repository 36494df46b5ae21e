"""Put the checks together, in the order in which a person would mend what they find.

A check that itself fails becomes a finding: the others still have their say.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from crishim.aio.shield import in_thread
from crishim.containerd.cri import Cri
from crishim.containerd.runtime import ask, spec_annotations
from crishim.doctor import criu, holds, kernel, network, pods, privileges, runtime, sockets, storage
from crishim.doctor.finding import Finding, error, ok
from crishim.errors import CrishimError, RuntimeRefused
from crishim.kernel import mounts, process

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from crishim.config import Config
    from crishim.containerd.channel import Channel

_TIMEOUT_S = 10.0
_PROC = Path("/proc")
_ETC_CRIU = Path("/etc/criu")
_HOME_CRIU = Path(process.environment()["HOME"]) / ".criu"
_Look: TypeAlias = "Callable[[], Awaitable[list[Finding]]]"


async def examine(config: Config, channel: Channel) -> list[Finding]:
    """Examine the node.

    Args: channel: to containerd, which need not be there.
    Returns: every finding, also what is fine.
    """
    groups: dict[str, _Look] = {
        "kernel": _kernel,
        "crishim": functools.partial(_crishim, config),
        "criu": _criu,
        "containerd": functools.partial(_containerd, config, channel),
        "store": functools.partial(_store, config),
    }
    findings: list[Finding] = []
    for name, look in groups.items():
        try:
            findings += await look()
        except (CrishimError, OSError, ValueError, RuntimeRefused) as problem:
            text = problem.details if isinstance(problem, RuntimeRefused) else str(problem)
            findings.append(
                error(
                    f"{name}.examination",
                    f"the rest of this group could not be examined: {text}",
                    cure="mend what this names, then run the doctor again",
                )
            )
    return findings


async def _kernel() -> list[Finding]:
    file_systems = (_PROC / "filesystems").read_text(encoding="ascii")
    return [
        await kernel.hold(),
        await in_thread(kernel.tcp_repair),
        await in_thread(kernel.sock_diag),
        kernel.erofs(file_systems, release=os.uname().release, mkfs=await _mkfs_takes_tar()),
    ]


async def _mkfs_takes_tar() -> bool:
    try:
        done = await process.run(["mkfs.erofs", "--help"], timeout_s=_TIMEOUT_S)
    except CrishimError:
        return False
    return b"--tar" in done.stdout + done.stderr


async def _crishim(config: Config) -> list[Finding]:
    socket = config.server.socket
    return [
        privileges.capabilities("crishim", _status("self")),
        sockets.own(socket),
        sockets.crictl(Path("/etc/crictl.yaml"), socket),
        await in_thread(sockets.kubelet, _PROC, socket),
    ]


async def _criu() -> list[Finding]:
    return [
        await criu.version(),
        await criu.check(),
        # After the check, which writes the cache anew.
        criu.cache(Path("/run"), mounts.read_mounts()),
        criu.override_file("criu.runc_conf", _ETC_CRIU / "runc.conf", wins=True),
        criu.override_file("criu.default_conf", _ETC_CRIU / "default.conf", wins=False),
        criu.override_file("criu.home_conf", _HOME_CRIU / "default.conf", wins=False),
    ]


async def _containerd(config: Config, channel: Channel) -> list[Finding]:
    try:
        found = await ask(channel)
    except RuntimeRefused as problem:
        return [
            error(
                "containerd.answers",
                f"containerd does not answer at {config.containerd.socket}: {problem.details}",
                cure="systemctl status containerd; or set [containerd] socket",
            )
        ]
    carried = await spec_annotations(channel, namespace=config.containerd.namespace)
    return [
        ok("containerd.answers", f"containerd answers at {config.containerd.socket}"),
        runtime.version(found.version),
        runtime.snapshotter(found),
        network.plugins(found.networks, keep_unmanaged=config.network.keep_unmanaged),
        *await runtime.handlers(found.handlers),
        privileges.capabilities("containerd", _status(found.pid)),
        criu.same_program(_path_of(found.pid)),
        criu.container_annotations(carried),
        await pods.mptcp(Cri(channel)),
        await holds.stray(Cri(channel), config.paths),
    ]


async def _store(config: Config) -> list[Finding]:
    return [
        storage.space(config.paths),
        storage.safety(config.paths),
        await in_thread(storage.wrappers, config.paths),
    ]


def _status(pid: int | str) -> str:
    return (_PROC / str(pid) / "status").read_text(encoding="utf-8")


def _path_of(pid: int) -> str:
    """Return PATH in the environment that a process was started with."""
    words = (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    return next((os.fsdecode(word[5:]) for word in words if word.startswith(b"PATH=")), "")
