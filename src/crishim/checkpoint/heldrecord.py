"""A stopped container as it is kept on disk, and the way there and back. Pure but for one stat."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crishim.checkpoint.hold import HoldRecord
from crishim.errors import Corrupt, CrishimError
from crishim.ids import ContainerId, SandboxId, container_id, sandbox_id
from crishim.kernel.interface import InterfaceState
from crishim.tools.runc import Runc

if TYPE_CHECKING:
    from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldRecord:
    """A stopped container.

    Attributes:
        archive, inode: where its checkpoint lies, and which file it is.
        frozen: its processes still exist, frozen; they are to be ended.
        kubelet: a kubelet manages it, and ends it by stopping it.
        pod_hold: the hold in the pod's namespace; None for a pod on the host's network.
        node_hold: the hold of the node; None while the sandbox exists.
        handed_over: its connections were restored elsewhere, or given up.
        reservations: host-local's directory; "" where another plugin gave the addresses.
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

    @property
    def waiting(self) -> tuple[str, ...]:
        """The addresses whose connections wait for a restore."""
        if self.handed_over:
            return ()
        return tuple(a for state in self.interfaces for a in state.global_addresses)


def is_committed(record: HeldRecord) -> bool:
    """Return whether the archive of a record has appeared: that very file has its final name."""
    try:
        return Path(record.archive).stat().st_ino == record.inode
    except OSError:
        return False


def encode(record: HeldRecord) -> bytes:
    """Return the text of a record."""
    return json.dumps(asdict(record), default=str).encode()


def decode(data: bytes) -> HeldRecord:
    """Read a record; raise Corrupt if it is none."""
    try:
        table = json.loads(data)
        return HeldRecord(
            sandbox=sandbox_id(table["sandbox"]),
            container=container_id(table["container"]),
            archive=table["archive"],
            inode=table["inode"],
            netns=table["netns"],
            runc=_runc(table["runc"]),
            frozen=table["frozen"],
            kubelet=table["kubelet"],
            stopped_at_ns=table["stopped_at_ns"],
            interfaces=tuple(InterfaceState.from_json(state) for state in table["interfaces"]),
            pod_hold=_hold(table["pod_hold"]),
            node_hold=_hold(table["node_hold"]),
            handed_over=table["handed_over"],
            reservations=table.get("reservations", ""),
        )
    except (ValueError, KeyError, TypeError, CrishimError) as error:
        raise Corrupt("not the record of a stopped container", details=repr(error)) from error


def _runc(table: dict[str, Any]) -> Runc:
    return Runc(
        binary=table["binary"], root=Path(table["root"]), systemd_cgroup=table["systemd_cgroup"]
    )


def _hold(table: dict[str, Any] | None) -> HoldRecord | None:
    if table is None:
        return None
    return HoldRecord(netns=table["netns"], family=table["family"], table=table["table"])
