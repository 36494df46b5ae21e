"""The containers of a sandbox that dumps have stopped, as they are kept on disk.

This module must never know who acts upon a record.
"""

from __future__ import annotations

import enum
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from crishim.ids import ContainerId, SandboxId, container_id, sandbox_id
from crishim.kernel.net.interface import InterfaceState
from crishim.network.hold import HoldRecord, NodeHold
from crishim.tools.runc import Runc
from crishim.versioned import Codec

if TYPE_CHECKING:
    from crishim.container.resolve import Source
    from crishim.strictjson import Reader

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_VERSION = 2


class HeldState(enum.StrEnum):
    """What has become of a container that a dump stops.

    ANNOUNCED: its archive may have appeared, or never; nobody knows enough to thaw or to end it.
    FROZEN: its archive has its name: it never goes on, and its processes are to be ended.
    ENDED: its processes are gone.

    A daemon that starts takes FROZEN for ANNOUNCED: what an earlier one knew is asked again.
    """

    ANNOUNCED = "announced"
    FROZEN = "frozen"
    ENDED = "ended"


class Waits(enum.StrEnum):
    """Where a sandbox's connections wait for a restore.

    IN_POD: behind the hold in its namespace. AT_NODE: behind the node's, for the sandbox goes or is
    gone. NO_MORE: they were restored elsewhere, or given up.
    """

    IN_POD = "in-pod"
    AT_NODE = "at-node"
    NO_MORE = "no-more"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldContainer:
    """One stopped container.

    Attributes:
        archive, inode, device: where its checkpoint lies, and which file it is; the device's
            number holds for one boot only, and is 0 where it was not noted.
        kubelet: a kubelet manages it, and ends it by stopping it.
        doubtful: its archive could not be made durable, and nobody has restored it: the container
            stays frozen until somebody stops it.
    """

    id: ContainerId
    archive: str
    inode: int
    device: int = 0
    runc: Runc
    kubelet: bool
    state: HeldState = HeldState.ANNOUNCED
    doubtful: bool = False

    @classmethod
    def of(cls, source: Source, *, archive: Path, inode: int, device: int = 0) -> Self:
        """Return what a dump announces of its source.

        Args: archive, inode, device: where the archive is about to appear, and the file that it
            will be.
        """
        return cls(
            id=source.container.id,
            archive=str(archive),
            inode=inode,
            device=device,
            runc=source.runc,
            kubelet=source.kubelet,
        )

    @property
    def frozen(self) -> bool:
        """Whether its processes may exist still."""
        return self.state is not HeldState.ENDED


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldRecord:
    """The stopped containers of one sandbox, and their connections.

    Attributes:
        containers: at least one.
        interfaces: of the pod; its addresses are what connections wait for.
        pod_hold: the hold in the pod's namespace; None for a pod on the host's network.
        reservations: host-local's directory; "" where another plugin gave the addresses.
        boot_id, stopped_at_boot_ns: which boot `waited_s` counts in, and CLOCK_BOOTTIME when it
            began; the wall clock may be set at any time.
    """

    sandbox: SandboxId
    containers: tuple[HeldContainer, ...]
    netns: str
    stopped_at_ns: int
    interfaces: tuple[InterfaceState, ...]
    pod_hold: HoldRecord | None
    waits: Waits = Waits.IN_POD
    reservations: str = ""
    boot_id: str = ""
    stopped_at_boot_ns: int = 0

    @property
    def node_hold(self) -> HoldRecord | None:
        """The hold of the node; None while the sandbox's own is enough, or none is needed."""
        if self.waits is not Waits.AT_NODE:
            return None
        return NodeHold.record_of(self.sandbox)

    @property
    def waiting(self) -> tuple[str, ...]:
        """The addresses whose connections wait for a restore."""
        if self.waits is Waits.NO_MORE:
            return ()
        return tuple(a for state in self.interfaces for a in state.global_addresses)

    @property
    def waited_s(self) -> float:
        """How long the connections have waited, as far as this boot knows."""
        if self.boot_id != this_boot():
            return 0.0
        return max(0, time.clock_gettime_ns(time.CLOCK_BOOTTIME) - self.stopped_at_boot_ns) / 1e9

    @property
    def undecided(self) -> tuple[HeldContainer, ...]:
        """The containers of which nobody knows enough."""
        return tuple(item for item in self.containers if item.state is HeldState.ANNOUNCED)

    def of(self, container: ContainerId) -> HeldContainer:
        """Return one of its containers; raise KeyError if it is none."""
        for item in self.containers:
            if item.id == container:
                return item
        raise KeyError(container)

    def changed(self, container: ContainerId, /, **changes: object) -> HeldRecord:
        """Return the record with some attributes of one container changed."""
        return self.all_changed(only=container, **changes)

    def all_changed(self, *, only: ContainerId | None = None, **changes: object) -> HeldRecord:
        """Return the record with some attributes of all containers changed."""
        containers = tuple(
            replace(item, **changes) if only in (None, item.id) else item  # type: ignore[arg-type]
            for item in self.containers
        )
        return replace(self, containers=containers)

    def in_this_boot(self) -> HeldRecord:
        """Return the record with its time begun anew, in this boot."""
        began_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        return replace(self, boot_id=this_boot(), stopped_at_boot_ns=began_ns)


def this_boot() -> str:
    """Return what tells this boot of the node from all others."""
    return _BOOT_ID.read_text(encoding="ascii").strip()


def _read(item: Reader, version: int) -> HeldRecord:
    if version == 1:
        return _read_first(item)
    return HeldRecord(
        sandbox=sandbox_id(item.text("sandbox")),
        containers=tuple(map(_container, item.sections("containers"))),
        netns=item.text("netns"),
        stopped_at_ns=item.whole("stopped_at_ns"),
        interfaces=_interfaces(item),
        pod_hold=_hold(item, "pod_hold"),
        waits=Waits(item.text("waits")),
        reservations=item.text("reservations"),
        boot_id=item.text("boot_id"),
        stopped_at_boot_ns=item.whole("stopped_at_boot_ns"),
    )


def _container(item: Reader) -> HeldContainer:
    return HeldContainer(
        id=container_id(item.text("id")),
        archive=item.text("archive"),
        inode=item.whole("inode"),
        device=item.whole("device"),
        runc=_runc(item.section("runc")),
        kubelet=item.flag("kubelet"),
        state=HeldState(item.text("state")),
        doubtful=item.flag("doubtful"),
    )


def _read_first(item: Reader) -> HeldRecord:
    """Read a record of crishim 0.1: one container for a sandbox, flags for states."""

    def since(key: str) -> int:
        return item.whole(key) if item.has(key) else 0  # its first releases did not write it

    waits = Waits.IN_POD if _hold(item, "node_hold") is None else Waits.AT_NODE
    return HeldRecord(
        sandbox=sandbox_id(item.text("sandbox")),
        containers=(
            HeldContainer(
                id=container_id(item.text("container")),
                archive=item.text("archive"),
                inode=item.whole("inode"),
                device=since("device"),
                runc=_runc(item.section("runc")),
                kubelet=item.flag("kubelet"),
                state=HeldState.ANNOUNCED if item.flag("frozen") else HeldState.ENDED,
                doubtful=item.has("doubtful") and item.flag("doubtful"),
            ),
        ),
        netns=item.text("netns"),
        stopped_at_ns=item.whole("stopped_at_ns"),
        interfaces=_interfaces(item),
        pod_hold=_hold(item, "pod_hold"),
        waits=Waits.NO_MORE if item.flag("handed_over") else waits,
        reservations=item.text("reservations") if item.has("reservations") else "",
        boot_id=item.text("boot_id") if item.has("boot_id") else "",
        stopped_at_boot_ns=since("stopped_at_boot_ns"),
    )


def _interfaces(item: Reader) -> tuple[InterfaceState, ...]:
    return tuple(map(InterfaceState.from_json, item.raw_sections("interfaces")))


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


CODEC = Codec(what="the record of a stopped container", version=_VERSION, read=_read)
