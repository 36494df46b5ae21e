"""nftables through libnftables, in our own process.

Executing the nft program costs 16 ms, a warm context 0.2 ms, which decides whether rules can be set
between the pause and the dump of a container. This module knows nothing of what the rules mean.

A context talks to the network namespace of the thread that made it and must be used by that thread
only. Rules name interfaces by text, never by `iif` or `oif`: libnftables keeps one table of
interface indices for the whole process, whatever the namespace.

The library waits by select(2), which ends the process at descriptors from 1024 on. What other work
opens must not keep holds from being set and removed, so a daemon keeps some low numbers for the
library's sockets (`reserve_descriptors`).

Source: libnftables(3); libnftables.so.1 since nftables 0.9; mnl.c there for the select.
"""

from __future__ import annotations

import ctypes
import functools
import os
import socket
import threading
from typing import Any

from crishim.errors import NoSpace, Precondition, ToolFailed

_LIBRARY = "libnftables.so.1"
# FD_SETSIZE is 1024, and glibc aborts beyond it; the margin is for whoever opens files meanwhile.
_DESCRIPTOR_MAX = 1000
_RESERVED = 64
_NETLINK_NETFILTER = 12
# The library keeps global caches without locks; one call at a time costs the others 0.2 ms.
_lock = threading.Lock()


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(_LIBRARY)
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_ctx_free.restype = None
    library.nft_ctx_free.argtypes = [ctypes.c_void_p]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
        getattr(library, name).restype = ctypes.c_char_p
    return library


class _LowDescriptors:
    """Numbers that the library can wait for, kept from everything else by being in use."""

    def __init__(self) -> None:
        self._wanted = 0
        self._kept: list[int] = []

    def keep(self, wanted: int | None = None) -> None:
        """Keep so many, or as many as before, as far as there are any."""
        self._wanted = self._wanted if wanted is None else wanted
        while len(self._kept) < self._wanted:
            fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            if fd >= _DESCRIPTOR_MAX:
                os.close(fd)
                return
            self._kept.append(fd)

    def free_one(self) -> int | None:
        """Free the lowest number of all: the next file or socket to be opened gets it."""
        if not self._kept:
            return None
        fd = self._kept.pop(0)
        os.close(fd)
        return fd


_low = _LowDescriptors()


def reserve_descriptors(number: int = _RESERVED) -> None:
    """Keep low descriptors for the library's sockets; early, while there are any."""
    with _lock:
        _low.keep(number)


def _new_context(library: Any) -> ctypes.c_void_p:
    """Return a context whose socket has a number that the library can wait for."""
    while True:
        fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        os.close(fd)
        low = _low.free_one() if fd >= _DESCRIPTOR_MAX else fd
        if low is None:
            raise NoSpace(
                f"{fd} files are open, too many for libnftables",
                hint="try again when less is going on",
            )
        context = ctypes.c_void_p(library.nft_ctx_new(0))
        if fd < _DESCRIPTOR_MAX or _is_nftables_socket(low):
            return context
        library.nft_ctx_free(context)  # another thread was quicker, and has the number now


def _is_nftables_socket(fd: int) -> bool:
    try:
        found = socket.socket(fileno=os.dup(fd))
    except OSError:
        return False
    with found:
        return found.family == socket.AF_NETLINK and found.proto == _NETLINK_NETFILTER


class Nft:
    """A warm context for the network namespace of the thread that makes it.

    Raises:
        Precondition: libnftables is not installed.
        NoSpace: so many files, and contexts, are open that libnftables would abort the process.
    """

    def __init__(self) -> None:
        try:
            self._library = _library()
        except OSError as error:
            raise Precondition(
                "libnftables is not installed", details=str(error), hint="install libnftables1"
            ) from error
        with _lock:
            self._context = _new_context(self._library)
            self._library.nft_ctx_buffer_output(self._context)
            self._library.nft_ctx_buffer_error(self._context)

    def run(self, text: str) -> str:
        """Run commands in nft's language as one transaction and return what they print.

        Raises:
            ToolFailed: nft refused; nothing of `text` took effect.
        """
        with _lock:
            status = self._library.nft_run_cmd_from_buffer(self._context, text.encode())
            output: bytes = self._library.nft_ctx_get_output_buffer(self._context)
            error: bytes = self._library.nft_ctx_get_error_buffer(self._context)
        if status != 0:
            # nft quotes the whole of our text below each complaint.
            lines = error.decode(errors="replace").split("\n")
            complaints = [line for line in lines if "Error:" in line]
            raise ToolFailed("nft", 1, details="; ".join(complaints[:3]))
        return output.decode(errors="replace")

    def tables(self) -> list[tuple[str, str]]:
        """Return family and name of every table in the namespace."""
        # Not as JSON: nftables 1.0.6 writes freed memory there for tables with an owner.
        words = [line.split() for line in self.run("list tables").split("\n")]
        return [(line[1], line[2]) for line in words if line[:1] == ["table"]]

    def remove(self, family: str, *tables: str) -> None:
        """Delete those of some tables that are there, in one transaction."""
        there = self.tables()
        gone = [f"delete table {family} {table}" for table in tables if (family, table) in there]
        if gone:
            self.run("; ".join(gone))

    def close(self) -> None:
        """Free the context. Safe to repeat."""
        context, self._context = self._context, ctypes.c_void_p(None)
        if context.value is not None:
            with _lock:
                self._library.nft_ctx_free(context)
                _low.keep()
