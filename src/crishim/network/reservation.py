"""Reserve addresses with the host-local IPAM plugin, in its own files and under its own lock.

host-local keeps one file per address, named by it, with the id of the container it belongs to.
A reservation written in its form is honoured when it chooses addresses for others, and goes when
CNI removes the sandbox it names; one that names another interface of it stays. Nothing here knows
interfaces.

Source: github.com/containernetworking/plugins v1.9.1, plugins/ipam/host-local/backend/disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import TYPE_CHECKING

from crishim.errors import AlreadyExists, Busy

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from crishim.ids import SandboxId

_INTERFACE = "eth0"
_WAITING = "crishim"
"""In place of the interface: whose connections wait, though CNI has removed the sandbox."""
_LOCK_TIMEOUT_S = 5.0
_POLL_S = 0.01


def holder(directory: Path, address: str) -> str:
    """Return the id of the container that an address is reserved for; "" if it is free."""
    try:
        return (directory / address).read_bytes().split(b"\r\n")[0].strip().decode()
    except FileNotFoundError:
        return ""


def is_of(directory: Path, addresses: Collection[str], owner: SandboxId) -> bool:
    """Return whether a sandbox has every one of these addresses reserved."""
    return bool(addresses) and all(holder(directory, item) == owner for item in addresses)


def reserve(
    directory: Path,
    addresses: Collection[str],
    *,
    owner: SandboxId,
    former: SandboxId | None,
    waiting: bool = False,
) -> None:
    """Reserve all of `addresses` for a sandbox, or none; blocks, at most some seconds.

    Args:
        former: a sandbox whose reservation may be taken over.
        waiting: for longer than the sandbox exists; only `release` ends it.
    Raises:
        AlreadyExists: an address is reserved for another container.
        Busy: host-local's lock was not to be had.
    """
    with _locked(directory):
        for address in addresses:
            if (other := holder(directory, address)) not in ("", owner, former):
                raise AlreadyExists(
                    f"the address {address} is reserved for another pod on this node",
                    details=f"sandbox {other}",
                    hint=f"if that pod is gone, remove {directory / address}",
                )
        for address in addresses:
            temporary = directory / f".crishim-{owner}"
            temporary.write_text(_text(owner, waiting=waiting))
            temporary.chmod(0o600)
            temporary.replace(directory / address)


def release(
    directory: Path, addresses: Collection[str], *, owner: SandboxId, waiting: bool = False
) -> None:
    """Give up what a sandbox has reserved of `addresses`; blocks, at most some seconds.

    Args: waiting: what was reserved with that word, instead of what was reserved without it.
    Raises: Busy: host-local's lock was not to be had.
    """
    try:
        os.stat(directory)
    except FileNotFoundError:
        return
    with _locked(directory):
        for address in addresses:
            with contextlib.suppress(FileNotFoundError):
                if (directory / address).read_bytes() == _text(owner, waiting=waiting).encode():
                    (directory / address).unlink()


def _text(owner: SandboxId, *, waiting: bool) -> str:
    return f"{owner}\r\n{_WAITING if waiting else _INTERFACE}"


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + _LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Busy(f"host-local holds its lock in {directory}") from None
                time.sleep(_POLL_S)
        yield
    finally:
        os.close(fd)
