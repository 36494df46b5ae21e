"""Where crishim keeps things on a node, as functions of one state and one run directory.

And where a kubelet keeps its checkpoints. STATE survives a reboot (checkpoints, records,
directories of dumps and of restored containers); RUN is a tmpfs (sockets, locks). Nothing else in
the code joins these paths.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crishim.ids import CheckpointName, ContainerId, SandboxId


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """The layout; all roots are absolute.

    Attributes:
        kubelet: the kubelet's own root directory (its --root-dir).
    """

    state: Path = Path("/var/lib/crishim")
    run: Path = Path("/run/crishim")
    kubelet: Path = Path("/var/lib/kubelet")

    @property
    def kubelet_checkpoints(self) -> Path:
        """Where a kubelet has its checkpoint endpoint put archives."""
        return self.kubelet / "checkpoints"

    @property
    def lock(self) -> Path:
        """The file that one running daemon holds locked."""
        return self.run / "crishim.lock"

    @property
    def store(self) -> Path:
        """Directory of stored checkpoints, 0700."""
        return self.state / "checkpoints"

    def checkpoint(self, name: CheckpointName) -> Path:
        """Return the archive of one stored checkpoint."""
        return self.store / f"{name}.tar"

    @property
    def dumps(self) -> Path:
        """Parent of the working directories of dumps."""
        return self.state / "dumps"

    def dump(self, container: ContainerId) -> Path:
        """Return the working directory of a dump: images, logs, notes; gone after success."""
        return self.dumps / container

    @property
    def logs(self) -> Path:
        """Directory of dump and restore logs kept after a failure."""
        return self.state / "logs"

    @property
    def restores(self) -> Path:
        """Parent of the directories of containers to be restored or restored."""
        return self.state / "restores"

    def restore(self, container: ContainerId) -> Path:
        """Return the directory that the runtime wrapper of one container reads."""
        return self.restores / container

    @property
    def preparations(self) -> Path:
        """Parent of directories with images that no container has taken yet."""
        return self.state / "preparations"

    @property
    def sandboxes(self) -> Path:
        """Parent of the records of sandboxes whose address we changed."""
        return self.state / "sandboxes"

    def sandbox(self, sandbox: SandboxId) -> Path:
        """Return the record of one sandbox: CNI's own and the preserved addresses."""
        return self.sandboxes / f"{sandbox}.json"

    @property
    def held(self) -> Path:
        """Parent of the records of stopped containers whose connections wait."""
        return self.state / "held"

    def held_sandbox(self, sandbox: SandboxId) -> Path:
        """Return the record of the stopped container of one sandbox."""
        return self.held / f"{sandbox}.json"

    @property
    def restored(self) -> Path:
        """Parent of the marks of containers that were restored once, by pod."""
        return self.state / "restored"

    def restored_pod(self, pod_uid: str) -> Path:
        """Return the directory that remembers which containers of a pod were restored."""
        return self.restored / pod_uid
