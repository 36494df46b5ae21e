"""Threads that live in a network namespace and do there what others ask.

A network namespace belongs to a thread: sockets, nftables contexts and netlink conversations reach
the namespace of the thread that opens them. `NetnsThread` enters one namespace for its whole life,
so that entering, importing and opening are paid for before a container is paused. Nothing forks.
While such a thread lives its namespace lives too, so whoever makes one closes it.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, Protocol, Self, TypeVar

from crishim.aio.outlast import outlast
from crishim.errors import NotFound, Precondition

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable

_CLONE_NEWNET = 0x40000000
_ABSENT = (errno.ENOENT, errno.ENOTDIR)
_P = ParamSpec("_P")
_T = TypeVar("_T")


class _Closes(Protocol):
    def close(self) -> object: ...


_C = TypeVar("_C", bound=_Closes)


class NetnsThread:
    """One thread inside one network namespace, doing one call after the other.

    Args:
        path: where the namespace is bound, such as /var/run/netns/cni-1234; None for the
            namespace that the daemon itself is in.
    Raises:
        NotFound: nothing is bound at that path.
        Precondition: it cannot be entered, which says nothing of whether it is there.
    """

    def __init__(self, path: str | None) -> None:
        self.path = path
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"netns {path or 'own'}")
        try:
            # Waiting here is waiting for a thread to start: tens of microseconds.
            self._executor.submit(_enter, path).result()
        except OSError as error:
            self._executor.shutdown()
            # EINVAL: what the namespace was bound to is there still, as a plain file.
            kind = NotFound if error.errno in (*_ABSENT, errno.EINVAL) else Precondition
            raise kind(f"cannot enter the network namespace {path}: {error}") from error

    def call(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run `function` in the namespace and wait for its result; blocks the caller."""
        return self._executor.submit(function, *args, **kwargs).result()

    async def run(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run `function` in the namespace; its result or exception is this call's.

        On cancel: a function that has begun is waited for, because what follows may undo it in
            another thread; one that has not begun never runs. What makes something is run by
            `made`.
        """
        work = self._executor.submit(function, *args, **kwargs)
        return await outlast(asyncio.wrap_future(work), work.cancel)

    async def made(self, undo: contextlib.ExitStack, make: Callable[..., _C], *args: object) -> _C:
        """Make something in the namespace that `undo` closes there, before this thread.

        On cancel: as `run`; what was made all the same is `undo`'s.
        """

        def inside() -> _C:
            thing = make(*args)
            undo.callback(self.call, thing.close)
            return thing

        return await self.run(inside)

    def close(self) -> None:
        """Let go of the namespace when the thread has done what it is doing; blocks until then.

        Safe to repeat.
        """
        self._executor.shutdown(wait=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close without blocking the event loop, also after a call that was cancelled.

        On cancel: waits for the thread all the same.
        """
        last = self._executor.submit(int)
        self._executor.shutdown(wait=False)
        await outlast(asyncio.wrap_future(last))


def _enter(path: str | None) -> None:
    if path is None:
        return
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(fd)
    finally:
        os.close(fd)


def _setns(fd: int) -> None:
    if sys.version_info >= (3, 12):
        os.setns(fd, _CLONE_NEWNET)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
