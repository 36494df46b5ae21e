"""A stopped container as it is kept on disk, and what is known of its archive."""

from __future__ import annotations

import enum
import errno
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crishim.ids import ContainerId, SandboxId, container_id, sandbox_id
from crishim.kernel import atomic
from crishim.kernel.net.interface import InterfaceState
from crishim.network.hold import HoldRecord
from crishim.tools.runc import Runc
from crishim.versioned import Codec

if TYPE_CHECKING:
    from crishim.strictjson import Reader

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class NotDurable(OSError):
    """An fsync has failed: what it was to write may be lost, whatever a later one answers."""


class Standing(enum.Enum):
    """What is known of the archive that a record names.

    COMMITTED: it has its final name. HALF: it still has the name of a half archive.
    UNKNOWN: neither is there, or nobody can look; it may have been committed and moved since.
    """

    COMMITTED = "committed"
    HALF = "half"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldRecord:
    """A stopped container.

    Attributes:
        archive, inode, device: where its checkpoint lies, and which file it is; the device's
            number holds for one boot only, and is 0 where it was not noted.
        frozen: its processes still exist, frozen; they are to be ended.
        kubelet: a kubelet manages it, and ends it by stopping it.
        pod_hold: the hold in the pod's namespace; None for a pod on the host's network.
        node_hold: the hold of the node; None while the sandbox exists.
        handed_over: its connections were restored elsewhere, or given up.
        reservations: host-local's directory; "" where another plugin gave the addresses.
        boot_id, stopped_at_boot_ns: which boot `waited_s` counts in, and CLOCK_BOOTTIME when it
            began; the wall clock may be set at any time.
        doubtful: its archive could not be made durable, and nobody has restored it: the container
            stays frozen until somebody stops it.
    """

    sandbox: SandboxId
    container: ContainerId
    archive: str
    inode: int
    netns: str
    runc: Runc
    frozen: bool
    kubelet: bool
    stopped_at_ns: int
    interfaces: tuple[InterfaceState, ...]
    pod_hold: HoldRecord | None
    node_hold: HoldRecord | None = None
    handed_over: bool = False
    reservations: str = ""
    device: int = 0
    boot_id: str = ""
    stopped_at_boot_ns: int = 0
    doubtful: bool = False

    @property
    def waiting(self) -> tuple[str, ...]:
        """The addresses whose connections wait for a restore."""
        if self.handed_over:
            return ()
        return tuple(a for state in self.interfaces for a in state.global_addresses)

    @property
    def waited_s(self) -> float:
        """How long the connections have waited, as far as this boot knows."""
        if self.boot_id != this_boot():
            return 0.0
        return max(0, time.clock_gettime_ns(time.CLOCK_BOOTTIME) - self.stopped_at_boot_ns) / 1e9


def this_boot() -> str:
    """Return what tells this boot of the node from all others."""
    return _BOOT_ID.read_text(encoding="ascii").strip()


def standing(record: HeldRecord) -> Standing:
    """Return what the names in the archive's directory prove; blocks as long as its disk does."""
    archive = Path(record.archive)
    if _is_it(archive, record):
        return Standing.COMMITTED
    try:
        names = os.listdir(archive.parent)
    except OSError:
        return Standing.UNKNOWN
    half = [name for name in names if name.startswith(f".{archive.name}.")]
    if any(_is_it(archive.parent / name, record) for name in half if name.endswith(".partial")):
        return Standing.HALF
    return Standing.UNKNOWN


def make_durable(record: HeldRecord) -> None:
    """Make a committed archive durable under its name; blocks as long as its disk does.

    Raises: NotDurable: the disk refused. OSError: the archive is not there, or nobody can look.
    """
    archive = Path(record.archive)
    fd = os.open(archive, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not _is_file(os.fstat(fd), record):
            raise FileNotFoundError(errno.ENOENT, "another file has its name", record.archive)
        try:
            os.fsync(fd)
            atomic.fsync_dir(archive.parent)
        except OSError as error:
            raise NotDurable(error.errno, error.strerror, record.archive) from error
    finally:
        os.close(fd)


def _is_it(path: Path, record: HeldRecord) -> bool:
    try:
        found = os.stat(path)
    except OSError:
        return False
    return _is_file(found, record)


def _is_file(found: os.stat_result, record: HeldRecord) -> bool:
    same_boot = record.device and record.boot_id == this_boot()
    return found.st_ino == record.inode and (not same_boot or found.st_dev == record.device)


def _read(item: Reader) -> HeldRecord:
    def since(key: str) -> int:
        return item.whole(key) if item.has(key) else 0  # what crishim 0.1 did not write

    return HeldRecord(
        sandbox=sandbox_id(item.text("sandbox")),
        container=container_id(item.text("container")),
        archive=item.text("archive"),
        inode=item.whole("inode"),
        netns=item.text("netns"),
        runc=_runc(item.section("runc")),
        frozen=item.flag("frozen"),
        kubelet=item.flag("kubelet"),
        stopped_at_ns=item.whole("stopped_at_ns"),
        interfaces=tuple(map(InterfaceState.from_json, item.raw_sections("interfaces"))),
        pod_hold=_hold(item, "pod_hold"),
        node_hold=_hold(item, "node_hold"),
        handed_over=item.flag("handed_over"),
        reservations=item.text("reservations") if item.has("reservations") else "",
        device=since("device"),
        boot_id=item.text("boot_id") if item.has("boot_id") else "",
        stopped_at_boot_ns=since("stopped_at_boot_ns"),
        doubtful=item.has("doubtful") and item.flag("doubtful"),
    )


def _runc(item: Reader) -> Runc:
    return Runc(
        binary=item.text("binary"),
        root=Path(item.text("root")),
        systemd_cgroup=item.flag("systemd_cgroup"),
    )


def _hold(item: Reader, key: str) -> HoldRecord | None:
    if item.raw()[key] is None:
        return None
    hold = item.section(key)
    return HoldRecord(
        netns=hold.text("netns"), family=hold.text("family"), table=hold.text("table")
    )


CODEC = Codec(what="the record of a stopped container", version=1, read=_read)
