"""Records on disk, one file for each sandbox, read at start by a daemon that must start.

A file that cannot be read costs nobody the others. What it was about is still known by its name, so
its sandbox counts as unreadable until it is gone: nobody acts there as if nothing had been written
down. A damaged one is moved aside; one of a later version keeps its name, and the crishim that
wrote it finds it. This module never knows what a record means.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from typing import TYPE_CHECKING, Generic, TypeVar

from crishim.errors import Corrupt, InvalidRequest
from crishim.ids import SandboxId, sandbox_id
from crishim.kernel import atomic
from crishim.kernel.files import is_there
from crishim.versioned import UnknownVersion

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from crishim.versioned import Codec

_log = logging.getLogger(__name__)
_R = TypeVar("_R")
_RECORD = ".json"
_DAMAGED = ".json.damaged"


class RecordFiles(Generic[_R]):
    """The files of one directory, one for each sandbox.

    Args:
        path: where a sandbox's record is: its id and ".json".
        codec: to and from the content.
    Attributes:
        unreadable: sandboxes with a record that says nothing to us.
        loaded: False after a `read` that failed as a whole.
    """

    def __init__(
        self,
        directory: Path,
        path: Callable[[SandboxId], Path],
        *,
        codec: Codec[_R],
    ) -> None:
        self.unreadable: set[SandboxId] = set()
        self.loaded = True
        self._refused: set[SandboxId] = set()
        self._directory = directory
        self._path = path
        self._codec = codec

    def read(self) -> dict[SandboxId, _R]:
        """Return all records that can be read, and note those that cannot.

        A damaged one is moved aside, once; one that the disk does not give stays for the next time.
        Raises: OSError: the directory itself cannot be read; nothing is known then.
        """
        found: dict[SandboxId, _R] = {}
        self.loaded = False
        self._refused.clear()
        with contextlib.suppress(FileNotFoundError):
            for name in sorted(os.listdir(self._directory)):
                if not name.endswith((_RECORD, _DAMAGED)):
                    continue
                if (sandbox := _sandbox_of(name)) is None:
                    _log.warning("%s is no record of ours", self._directory / name)
                    continue
                if name.endswith(_DAMAGED):
                    self.unreadable.add(sandbox)
                    continue
                try:
                    found[sandbox] = self._codec.decode((self._directory / name).read_bytes())
                except (Corrupt, OSError) as error:
                    self._set_aside(sandbox, error)
        self.unreadable -= found.keys()
        self.loaded = True
        return found

    def read_refused(self) -> dict[SandboxId, _R]:
        """Return the records that the disk did not give before, and gives now."""
        found: dict[SandboxId, _R] = {}
        for sandbox in tuple(self._refused):
            try:
                data = self._path(sandbox).read_bytes()
            except FileNotFoundError:
                pass
            except OSError:
                continue
            else:
                try:
                    found[sandbox] = self._codec.decode(data)
                except Corrupt as error:
                    self._refused.discard(sandbox)
                    self._set_aside(sandbox, error)
                    continue
            self._refused.discard(sandbox)
            self.unreadable.discard(sandbox)
        return found

    def _set_aside(self, sandbox: SandboxId, error: Exception) -> None:
        self.unreadable.add(sandbox)
        path = self._path(sandbox)
        if isinstance(error, UnknownVersion):
            _log.error("%s stays for the crishim that wrote it: %s", path, error)
            return
        if not isinstance(error, Corrupt):
            _log.error("%s cannot be read: %s", path, error)
            self._refused.add(sandbox)
            return
        aside = _aside(path)
        _log.error("%s is damaged and moved to %s: %s", path, aside, error)
        with contextlib.suppress(OSError):
            os.rename(path, aside)

    def write(self, sandbox: SandboxId, record: _R) -> None:
        """Replace a sandbox's record durably."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        atomic.write_file(self._path(sandbox), self._codec.encode(record))

    def overwrite(self, sandbox: SandboxId, record: _R) -> None:
        """Change a sandbox's record in its place, which takes no room; it must not have grown."""
        data = self._codec.encode(record)
        fd = os.open(self._path(sandbox), os.O_WRONLY | os.O_CLOEXEC)
        try:
            room = os.fstat(fd).st_size
            if len(data) > room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path(sandbox)))
            atomic.pwrite_all(fd, data.ljust(room), 0)
            os.fsync(fd)
        finally:
            os.close(fd)

    def remove(self, sandbox: SandboxId) -> None:
        """Remove a sandbox's record, if there is one; a power cut may bring it back."""
        self._path(sandbox).unlink(missing_ok=True)

    def make_removals_durable(self) -> None:
        """Have no power cut bring back what was removed; a later `write` does the same. Blocks."""
        with contextlib.suppress(FileNotFoundError):
            atomic.fsync_dir(self._directory)

    def unread(self) -> list[Path]:
        """Return the files that say nothing to us, those of sandboxes that are gone too; blocks.

        Raises: OSError: nobody knows which there are.
        """
        if not self.loaded:
            raise OSError(errno.EAGAIN, "not read yet", str(self._directory))
        found: list[Path] = []
        with contextlib.suppress(FileNotFoundError):
            for name in sorted(os.listdir(self._directory)):
                is_record, is_damaged = name.endswith(_RECORD), name.endswith(_DAMAGED)
                sandbox = _sandbox_of(name)
                if sandbox and (is_damaged or (is_record and sandbox in self.unreadable)):
                    found.append(self._directory / name)
        return found

    def keep_unreadable(self, live: Collection[str]) -> None:
        """Forget damaged records of sandboxes that are gone: they can tell nobody anything.

        The files stay, for a person. What the disk did not give may be whole, and is kept.
        """
        for sandbox in [item for item in self.unreadable if item not in live]:
            if not is_there(self._path(sandbox)):
                self.unreadable.discard(sandbox)


def _sandbox_of(name: str) -> SandboxId | None:
    """Return whose record a file is by its name; None if it is nobody's."""
    try:
        return sandbox_id(name.removesuffix(_DAMAGED).removesuffix(_RECORD))
    except InvalidRequest:
        return None


def _aside(path: Path) -> Path:
    return path.with_name(path.stem + _DAMAGED)
