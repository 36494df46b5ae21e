"""Remember which containers of which pods were restored once.

A pod's annotation names a checkpoint for the first start only. Once that start has succeeded the
checkpoint is the past: a container that crashes later starts cold, as any other would. The memory
is kept by the pod's uid, because a kubelet may give the same pod a new sandbox.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from crishim.errors import CrishimError, InvalidRequest
from crishim.ids import checkpoint_name
from crishim.kernel import atomic, tree
from crishim.kernel.files import is_there

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from crishim.paths import Paths

_log = logging.getLogger(__name__)
_COLD = "the pod prefers a cold start now, which its next container is"


class Restored:
    """Marks on disk, one file per container name below a directory per pod."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    def mark(self, *, pod_uid: str, container: str) -> None:
        """Remember a restore that succeeded: the next container starts cold."""
        path = self._path(pod_uid, container)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        atomic.write_file(path, b"")

    def give_up(self, error: BaseException, *, pod_uid: str, container: str) -> None:
        """Do the same for one that failed for good and whose pod prefers a cold start then.

        Args: error: why; if it is ours, it tells its reader what comes now.
        """
        self.mark(pod_uid=pod_uid, container=container)
        _log.warning(
            "container %s of pod %s is given up: %s (%s)", container, pod_uid, error, _COLD
        )
        if isinstance(error, CrishimError):
            error.hint = "; ".join(text for text in (error.hint, _COLD) if text)

    def before(self, *, pod_uid: str, container: str) -> bool:
        """Return whether a restore of that container of that pod succeeded or was given up.

        Raises: OSError: nobody can tell; a second restore would put the pod back into its past.
        """
        return is_there(self._path(pod_uid, container))

    def keep_only(self, pod_uids: Collection[str]) -> None:
        """Drop the marks of all pods but these."""
        for path in self._paths.restored.glob("*"):
            if path.name not in pod_uids:
                tree.remove_tree(path)

    def _path(self, pod_uid: str, container: str) -> Path:
        return self._paths.restored_pod(_component(pod_uid)) / _component(container)


def _component(text: str) -> str:
    """Check a text of a request before it becomes part of a path."""
    try:
        return checkpoint_name(text)
    except InvalidRequest as error:
        raise InvalidRequest(f"{text[:80]!r} cannot name a pod or a container") from error
