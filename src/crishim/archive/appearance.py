"""The moment in which a half file gets its final name, and the proof that it has it.

Nothing is ever replaced by chance: the name is taken only if nobody has it, or if whoever wants to
replace what is there has looked at it. Whether the file has its name is told by evidence alone, its
inode under a name: that the half file's own name is gone proves nothing, because anybody may have
removed it, and a file system that fails to answer has not said no. This module must never know
what a file is for. All calls block.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from typing import TYPE_CHECKING

from crishim.errors import AlreadyExists, Precondition
from crishim.kernel import atomic

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


_HINT = "choose another name, or remove it first"


def refuse_taken(target: Path, *, replace: Callable[[], None] | None) -> None:
    """Refuse a name that something has which is not to be replaced.

    Args: replace: see `Appearance`.
    Raises: AlreadyExists, Precondition: it is taken. What `replace` raises.
    """
    try:
        there = os.lstat(target)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(there.st_mode):
        raise Precondition(f"{target} is a directory", hint="name a file")
    if replace is None or not stat.S_ISREG(there.st_mode):
        raise AlreadyExists(f"{target} is already there", hint=_HINT)
    replace()


class Appearance:
    """One locked half file and the name that it is to have.

    Args:
        target: the final name.
        replace: called before a file that has this name is replaced; raises if that file is still
            needed. None: nothing is ever replaced.
    """

    def __init__(self, target: Path, *, replace: Callable[[], None] | None) -> None:
        self._target = target
        self._replace = replace
        self._replaced = False
        self._tried = False
        self._appeared = False
        self.fd = -1
        """The file; open from `create` until `close`."""
        self._directory = -1
        self.partial = target
        """The name of the half file."""

    def create(self) -> None:
        """Make the half file beside its target, locked.

        Raises: AlreadyExists, Precondition: the name is taken, or cannot be had on this file
            system. OSError: as the file system says.
        """
        refuse_taken(self._target, replace=self._replace)
        self._directory = os.open(self._target.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._create_locked()
        except BaseException:
            self.close()
            raise

    def appear(self) -> None:
        """Give the file its final name.

        Raises: AlreadyExists: somebody else has taken the name meanwhile. What `replace` raises.
            OSError: `appeared` tells whether it has its name all the same.
        """
        self._tried = True
        try:
            atomic.rename_new(self.partial, self._target)
        except FileExistsError as error:
            # NFS may answer a repeated request so, whose first try has succeeded.
            if not self.appeared():
                self._take_the_place(error)
        self._appeared = True

    def appeared(self) -> bool | None:
        """Return whether the file has its final name; None where nobody can tell."""
        if self._appeared or not self._tried:
            return self._appeared
        with contextlib.suppress(OSError):
            own = os.fstat(self.fd)
            if _is(own, lambda: os.lstat(self._target)) or self._is_inside(own, self._target.name):
                return True
            if own.st_nlink == 0 or self._is_inside(own, self.partial.name):
                return False
        return None

    def withdraw(self) -> None:
        """Take the file's final name away, if it is its own and nothing else's place."""
        own = os.fstat(self.fd)
        if not self._replaced and _is(own, lambda: os.lstat(self._target)):
            os.unlink(self._target)
            self._appeared = self._tried = False

    def close(self) -> None:
        """Close the file; without a final name it is removed, unless nobody can tell."""
        try:
            if self.fd >= 0 and self.appeared() is not None:
                self._remove_partial()
        finally:
            self.release()

    def release(self) -> None:
        """Close the file and leave its names as they are."""
        for fd in (self.fd, self._directory):
            if fd >= 0:
                os.close(fd)
        self.fd = self._directory = -1

    def _take_the_place(self, error: OSError) -> None:
        if self._replace is None:
            raise AlreadyExists(f"{self._target} is there by now", hint=_HINT) from error
        refuse_taken(self._target, replace=self._replace)
        os.rename(self.partial, self._target)
        self._replaced = True

    def _create_locked(self) -> None:
        while True:
            self.partial = self._new_partial()
            self.fd = os.open(
                self.partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
            )
            # A sweep between the two lines finds the file unlocked and removes it.
            if atomic.lock_fd(self.fd) and os.fstat(self.fd).st_nlink:
                break
            os.close(self.fd)
            self.fd = -1
        # What the end needs is tried at the beginning, while nobody is paused for it.
        other = self._new_partial()
        atomic.rename_new(self.partial, other)
        self.partial = other

    def _new_partial(self) -> Path:
        return self._target.with_name(f".{self._target.name}.{secrets.token_hex(4)}.partial")

    def _remove_partial(self) -> None:
        if self._is_inside(os.fstat(self.fd), self.partial.name):
            os.unlink(self.partial.name, dir_fd=self._directory)

    def _is_inside(self, own: os.stat_result, name: str) -> bool:
        """Whether the directory has our file under a name, wherever the directory is by now."""
        return _is(own, lambda: os.stat(name, dir_fd=self._directory, follow_symlinks=False))


def _is(own: os.stat_result, look: Callable[[], os.stat_result]) -> bool:
    """Whether a name is our file's; raise OSError if nobody can tell."""
    try:
        return os.path.samestat(own, look())
    except FileNotFoundError:
        return False
