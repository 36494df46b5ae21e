"""Where checkpoints lie on a node, and what a name or a path given by somebody means.

A checkpoint is code: who writes one is root on the node. So names lead only into the store, which
is ours, and an absolute path elsewhere is an explicit act of whoever holds our socket; a pod's
annotation, which anybody with a pod may write, reaches the store and the kubelet's own directory of
checkpoints only.

Whatever looks at the disk blocks, for as long as a disk that does not answer takes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

from crishim.errors import CrishimError, InvalidRequest, NotFound
from crishim.ids import CheckpointName, checkpoint_name
from crishim.kernel.atomic import storage_errors

if TYPE_CHECKING:
    from crishim.paths import Paths

_log = logging.getLogger(__name__)
_SUFFIX = ".tar"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_UNFIT = re.compile(r"[^A-Za-z0-9_.-]+")
_ABSOLUTE = re.compile(r"/[^\0]+")


class Store:
    """The node's checkpoints."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    def new_name(self, *, namespace: str, pod: str, container: str) -> CheckpointName:
        """Return a name for a checkpoint taken now, that is not in use."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        base = _UNFIT.sub("-", f"{pod}_{namespace}-{container}")[:150].lstrip("-._")
        for number in range(1, 10_000):
            tail = "" if number == 1 else f"-{number}"
            name = checkpoint_name(f"{base or 'checkpoint'}-{stamp}{tail}")
            if not self._paths.checkpoint(name).exists():
                return name
        raise InvalidRequest(f"too many checkpoints named {base}-{stamp}")

    def path(self, name: CheckpointName) -> Path:
        """Return where the checkpoint of that name lies, or will; its directory exists after."""
        self._paths.store.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._paths.checkpoint(name)

    def name_of(self, path: Path) -> str:
        """Return the name in the store of an archive; "" for one that lies elsewhere."""
        if path.parent == self._paths.store and path.suffix == _SUFFIX:
            return path.name.removesuffix(_SUFFIX)
        return ""

    def find(self, reference: str) -> Path:
        """Return the archive that a name in the store or an absolute path names.

        Raises: InvalidRequest: neither a name nor a path. NotFound: there is no such archive.
        """
        if reference.startswith("/"):
            if not _ABSOLUTE.fullmatch(reference) or ".." in Path(reference).parts:
                raise InvalidRequest(f"{reference[:200]!r} is not a clean absolute path")
            path = Path(reference)
        else:
            path = self._paths.checkpoint(checkpoint_name(reference))
        if not _is_file(path):
            raise no_such(reference)
        return path

    def has(self, text: str) -> bool:
        """Return whether a text, such as an image's name, is the name of a stored checkpoint.

        A store that cannot be looked at must not keep an ordinary container from starting.
        """
        if not can_name(text):
            return False
        try:
            return _is_file(self._paths.checkpoint(checkpoint_name(text)))
        except CrishimError as error:
            _log.warning("%s is taken for an image: %s", text, error)
            return False

    def find_for_pod(self, reference: str) -> Path:
        """Do the same for a reference that came in a pod's annotation.

        Raises: InvalidRequest: also for a path outside the store and the kubelet's directory.
        """
        if reference.startswith("/"):
            allowed = (self._paths.store, self._paths.kubelet_checkpoints)
            if Path(reference).parent not in allowed:
                raise InvalidRequest(
                    f"a pod may not name {reference[:200]!r}",
                    hint=f"archives in {allowed[0]} and {allowed[1]} only",
                )
        return self.find(reference)

    def names(self) -> list[CheckpointName]:
        """Return all names in the store, oldest first.

        Raises: Precondition: nobody can tell; base images are unpinned for want of names.
        """
        with storage_errors("cannot list the checkpoints"):
            found: list[tuple[int, CheckpointName]] = []
            for file in self._files():
                # What somebody put there under an odd name, or has just removed, is none of ours.
                with contextlib.suppress(InvalidRequest, FileNotFoundError):
                    name = checkpoint_name(file.removesuffix(_SUFFIX))
                    found.append((os.stat(self._paths.store / file).st_mtime_ns, name))
            return [name for _, name in sorted(found)]

    def _files(self) -> list[str]:
        try:
            return [name for name in os.listdir(self._paths.store) if name.endswith(_SUFFIX)]
        except FileNotFoundError:
            return []


def can_name(text: str) -> bool:
    """Return whether a text, such as an image's name, may be the name of a stored checkpoint.

    Every ordinary container is asked about so, and no disk is: a kubelet's image, which it names by
    its digest, is none of ours.
    """
    if _DIGEST.fullmatch(text):
        return False
    try:
        checkpoint_name(text)
    except InvalidRequest:
        return False
    return True


def no_such(reference: str) -> NotFound:
    """Return the error for a checkpoint that is not there, or that is nobody's business."""
    return NotFound(f"there is no checkpoint {reference}", hint="see `crishim list`")


def _is_file(path: Path) -> bool:
    """Return whether a regular file is there; raise Precondition if the disk does not tell."""
    with storage_errors("cannot look for a checkpoint"):
        try:
            return stat.S_ISREG(os.stat(path).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False
