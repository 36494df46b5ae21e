"""Remember which containers of which pods were restored once.

A pod's annotation names a checkpoint for the first start of a container only. Once that start has
succeeded the checkpoint is the past: a container that crashes later starts cold, as any other
would. The memory is kept by the pod's uid, because a kubelet may give the same pod a new sandbox.

It is written before the start, when failing still costs nothing, and turned back when the restore
fails. So a disk that is full after the start, or a crash, leaves a mark that names the container:
what became of it is asked of containerd before anything is started again. All calls block.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from crishim.errors import Corrupt, CrishimError, InvalidRequest, Precondition
from crishim.ids import ContainerId, checkpoint_name, container_id
from crishim.kernel import atomic, files, tree

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from crishim.paths import Paths

_log = logging.getLogger(__name__)
_COLD = "the pod prefers a cold start now, which its next container is"
_RESTORING = "restoring "
_ABSENT_S = 24 * 3600.0
_COPYING_S = 600.0
"""An archive that was written to so lately may still be on its way to this node."""


class Restored:
    """Marks on disk, one file per container name below a directory per pod.

    A mark is empty, or says in which container a restore was begun. Anything else is not guessed.
    """

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._absent_since: dict[str, float] = {}
        self._unwritten: set[tuple[str, str]] = set()
        self._void: set[tuple[str, str]] = set()

    def begin(self, *, pod_uid: str, container: str, into: ContainerId) -> None:
        """Remember that a restore is about to be tried, and in which container.

        Raises: NoSpace, Precondition: it cannot be remembered; nothing may be started.
        """
        self._void.discard((pod_uid, container))
        self._write(pod_uid, container, f"{_RESTORING}{into}\n")

    def turn_back(self, *, pod_uid: str, container: str) -> None:
        """Forget a restore that has failed: the next container is restored.

        Raises: OSError: its mark stays; it means nothing as long as this daemon lives.
        """
        self._void.add((pod_uid, container))
        path = self._path(pod_uid, container)
        path.unlink(missing_ok=True)
        atomic.fsync_dir(path.parent)
        self._void.discard((pod_uid, container))

    def mark(self, *, pod_uid: str, container: str) -> None:
        """Remember a restore that succeeded: the next container starts cold.

        Raises: as `begin`; it is remembered in memory then, and written by `sweep`.
        """
        self._unwritten.add((pod_uid, container))
        self._write(pod_uid, container, "")
        self._unwritten.discard((pod_uid, container))

    def failed(self, error: BaseException, *, archive: Path, pod_uid: str, container: str) -> None:
        """Give up a restore that failed for good and whose pod prefers a cold start then.

        Args: error: why; if it is final, its reader is told what comes now.
        """
        if not isinstance(error, CrishimError) or not error.final or _may_grow(error, archive):
            return
        try:
            self.mark(pod_uid=pod_uid, container=container)
        except CrishimError as failure:
            _log.error("%s; it is tried again", failure)
        _log.warning(
            "container %s of pod %s is given up: %s (%s)", container, pod_uid, error, _COLD
        )
        error.hint = "; ".join(text for text in (error.hint, _COLD) if text)

    def before(self, *, pod_uid: str, container: str) -> bool:
        """Return whether a restore of that container of that pod succeeded or was given up.

        Raises: Precondition: the disk does not tell.
        """
        said = self._read(pod_uid, container)
        if (pod_uid, container) in self._unwritten:
            return True
        return said is not None and not said.startswith(_RESTORING)

    def unsettled(self, *, pod_uid: str, container: str) -> ContainerId | None:
        """Return in which container a restore was begun whose end is not known."""
        if (pod_uid, container) in self._void:
            return None
        said = self._read(pod_uid, container) or ""
        return container_id(said.removeprefix(_RESTORING).strip()) if said else None

    def sweep(self, pod_uids: Collection[str]) -> None:
        """Write what could not be written, and drop the marks of pods long gone.

        Args: pod_uids: of all pods that have a sandbox. Others may still be their kubelet's, which
            is about to make them another one: their marks stay for a day.
        """
        for pod_uid, container in tuple(self._unwritten):
            self.mark(pod_uid=pod_uid, container=container)
        now = time.monotonic()
        for path in files.entries(self._paths.restored):
            if path.name in pod_uids:
                self._absent_since.pop(path.name, None)
            elif now - self._absent_since.setdefault(path.name, now) > _ABSENT_S:
                tree.remove_tree(path)
                del self._absent_since[path.name]

    def _write(self, pod_uid: str, container: str, text: str) -> None:
        path = self._path(pod_uid, container)
        with atomic.storage_errors(f"cannot remember the restore of container {container}"):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            atomic.write_file(path, text.encode())

    def _read(self, pod_uid: str, container: str) -> str | None:
        """Return a mark's text; None where there is none, which only its absence shows."""
        path = self._path(pod_uid, container)
        with atomic.storage_errors(f"cannot tell whether container {container} was restored"):
            try:
                said = path.read_text(encoding="ascii", errors="replace")
            except FileNotFoundError:
                return None
        if said and not said.startswith(_RESTORING):
            raise Precondition(
                f"cannot tell whether container {container} was restored: {path} says something "
                "that this crishim does not know",
                hint="run the version of crishim that wrote it, or remove the file",
            )
        return said

    def _path(self, pod_uid: str, container: str) -> Path:
        return self._paths.restored_pod(_component(pod_uid)) / _component(container)


def _may_grow(error: CrishimError, archive: Path) -> bool:
    """Return whether a damaged archive may be one that somebody is still copying here."""
    if not isinstance(error, Corrupt):
        return False
    try:
        return time.time() - archive.stat().st_mtime < _COPYING_S
    except OSError:
        return True


def _component(text: str) -> str:
    """Check a text of a request before it becomes part of a path."""
    try:
        return checkpoint_name(text)
    except InvalidRequest as error:
        raise InvalidRequest(f"{text[:80]!r} cannot name a pod or a container") from error
