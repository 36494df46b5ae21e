"""Containers that a dump stopped, and their connections, until somebody restores them.

Between the end of a container and the restore of its checkpoint no kernel may answer for its
connections. The pod's own hold drops their packets as long as its sandbox exists; a hold of the
node takes over when the sandbox goes. What was caught meanwhile waits in memory for the restored
pod.

Each stopped container has a record on disk, written before the archive appears, so that a daemon
that starts after a crash knows which holds are meant and which container is still to be ended.
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from crishim.checkpoint import hold
from crishim.errors import Corrupt, DeadlineExceeded, ToolFailed
from crishim.ids import ContainerId, SandboxId, by_prefix, container_id, sandbox_id
from crishim.kernel import atomic
from crishim.kernel.interface import InterfaceState
from crishim.tools import runc as runcs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from crishim.checkpoint.manifest import Manifest
    from crishim.checkpoint.resolve import Source
    from crishim.containerd.cri import Cri
    from crishim.kernel.packet import Frame
    from crishim.paths import Paths

_log = logging.getLogger(__name__)
_END_TIMEOUT_S = 20.0
_POLL_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldRecord:
    """A stopped container, as it is kept on disk.

    Attributes:
        archive: where its checkpoint lies or was about to lie.
        frozen: its processes still exist, frozen; they are to be ended.
        pod_hold: the hold in the pod's namespace; None for a pod on the host's network.
        node_hold: the hold of the node; None while the sandbox exists.
    """

    sandbox: SandboxId
    container: ContainerId
    archive: str
    netns: str
    runc: runcs.Runc
    frozen: bool
    interfaces: tuple[InterfaceState, ...]
    pod_hold: hold.HoldRecord | None
    node_hold: hold.HoldRecord | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """All addresses whose connections wait."""
        return tuple(a for state in self.interfaces for a in state.global_addresses)


class Held:
    """All stopped containers of the node, by their sandbox."""

    def __init__(self, paths: Paths, cri: Cri) -> None:
        self._paths = paths
        self._cri = cri
        self._records: dict[SandboxId, HeldRecord] = {}
        self._catching: dict[SandboxId, hold.SourceHold] = {}

    async def keep(
        self, source: Source, caught: hold.SourceHold | None, manifest: Manifest, *, archive: Path
    ) -> None:
        """Write down that a frozen container is about to be ended for good."""
        record = HeldRecord(
            sandbox=source.sandbox.id,
            container=source.container.id,
            archive=str(archive),
            netns=source.sandbox.netns,
            runc=source.runc,
            frozen=True,
            interfaces=tuple(InterfaceState.from_json(i) for i in manifest.interfaces),
            pod_hold=caught.record if caught else None,
        )
        self._write(record)
        if caught is not None:
            self._catching[record.sandbox] = caught

    def forget(self, sandbox: SandboxId) -> None:
        """Drop a record; the holds are somebody else's business."""
        self._records.pop(sandbox, None)
        self._catching.pop(sandbox, None)
        self._paths.held_sandbox(sandbox).unlink(missing_ok=True)

    def sandboxes(self) -> list[SandboxId]:
        """Return the sandboxes with a stopped container."""
        return list(self._records)

    def of_container(self, container: str) -> HeldRecord | None:
        """Return the record of a stopped container by its id."""
        found = by_prefix(container, (record.container for record in self._records.values()))
        return next((r for r in self._records.values() if r.container == found), None)

    def of_addresses(self, addresses: Iterable[str]) -> HeldRecord | None:
        """Return the stopped container whose connections wait for one of these addresses."""
        wanted = set(addresses)
        return next((r for r in self._records.values() if wanted & set(r.addresses)), None)

    async def end(self, sandbox: SandboxId) -> None:
        """End the frozen processes of a stopped container and wait until CRI knows.

        They are killed first and thawed then, so not one instruction of theirs runs any more.
        Raises: DeadlineExceeded: containerd did not notice within 20 s.
        """
        record = self._records[sandbox]
        if not record.frozen:
            return
        caught = self._catching.get(sandbox)
        if caught is not None:
            await caught.keep()
        try:
            await runcs.kill(record.runc, record.container)
            await runcs.resume(record.runc, record.container)
        except ToolFailed:
            # cgroup v2 ends frozen processes at the signal; there is nothing to thaw then.
            _log.debug("container %s ended while frozen", record.container[:13])
        await self._wait_ended(record.container)
        self._write(replace(record, frozen=False))

    async def sandbox_stops(self, sandbox: SandboxId) -> None:
        """Let the node drop what the sandbox's own hold dropped, before the sandbox goes."""
        record = self._records.get(sandbox)
        if record is None or record.node_hold is not None:
            return
        await self.end(sandbox)
        record = self._records[sandbox]
        if record.addresses:
            await self._close_node_hold(record)

    async def lift_node_hold(self, record: HeldRecord) -> None:
        """Stop dropping at the node, once the target's own hold stands and has the address."""
        if record.node_hold is not None:
            await hold.remove(record.node_hold)

    async def restore_node_hold(self, record: HeldRecord) -> None:
        """Drop at the node again, because the restore has failed and another may follow."""
        if record.node_hold is not None:
            await self._close_node_hold(record)

    async def take_frames(self, record: HeldRecord) -> list[Frame]:
        """Return what was caught for a stopped container and forget about it.

        Its sandbox, if it is still there, keeps the address behind its hold until it is removed.
        """
        caught = self._catching.get(record.sandbox)
        frames = await caught.take_frames() if caught is not None else []
        self.forget(record.sandbox)
        return frames

    def load(self) -> None:
        """Read the records that an earlier daemon has left."""
        for path in sorted(self._paths.held.glob("*.json")):
            record = _decode(path)
            self._records[record.sandbox] = record

    async def recover(self, sandbox: SandboxId) -> None:
        """Go on where a crash left off: end what has its archive, forget what has none.

        Without an archive the dump's guardian has let the container go on.
        """
        record = self._records[sandbox]
        if not record.frozen:
            return
        if Path(record.archive).exists():
            await self.end(sandbox)
        else:
            self.forget(sandbox)

    async def _close_node_hold(self, record: HeldRecord) -> None:
        node_hold = hold.NodeHold(record.addresses)
        self._write(replace(record, node_hold=node_hold.record))
        await node_hold.close()

    def _write(self, record: HeldRecord) -> None:
        self._paths.held.mkdir(mode=0o700, parents=True, exist_ok=True)
        data = json.dumps(asdict(record), default=str).encode()
        atomic.write_file(self._paths.held_sandbox(record.sandbox), data)
        self._records[record.sandbox] = record

    async def _wait_ended(self, container: ContainerId) -> None:
        try:
            async with asyncio.timeout(_END_TIMEOUT_S):
                while (await self._cri.container(container)).running:  # noqa: ASYNC110
                    await asyncio.sleep(_POLL_S)  # CRI has no call that waits for an exit
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"container {container[:13]} was ended, but containerd still calls it running"
            ) from error


def _decode(path: Path) -> HeldRecord:
    try:
        table = json.loads(path.read_bytes())
        runc = table["runc"]
        return HeldRecord(
            sandbox=sandbox_id(table["sandbox"]),
            container=container_id(table["container"]),
            archive=table["archive"],
            netns=table["netns"],
            runc=runcs.Runc(
                binary=runc["binary"],
                root=Path(runc["root"]),
                systemd_cgroup=runc["systemd_cgroup"],
            ),
            frozen=table["frozen"],
            interfaces=tuple(InterfaceState.from_json(state) for state in table["interfaces"]),
            pod_hold=hold.HoldRecord(**table["pod_hold"]) if table["pod_hold"] else None,
            node_hold=hold.HoldRecord(**table["node_hold"]) if table["node_hold"] else None,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"{path} is damaged", details=str(error)) from error
