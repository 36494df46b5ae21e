"""libnftables waits with select(2), which ends the process at a high descriptor."""

import os
import resource
import socket

import pytest

from crishim.errors import NoSpace
from crishim.tools import nft
from crishim.tools.nft import Nft


class Library:
    """libnftables as far as descriptors go: a context has a socket, and opens files before it."""

    def __init__(self):
        self.sockets = {}

    def nft_ctx_new(self, _flags):
        os.close(os.open("/dev/null", os.O_RDONLY))
        made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
        self.sockets[made.fileno()] = made
        return made.fileno()

    def nft_ctx_free(self, context):
        self.sockets.pop(context.value).close()

    def nft_ctx_buffer_output(self, _context):
        pass

    nft_ctx_buffer_error = nft_ctx_buffer_output


@pytest.fixture
def library(monkeypatch):
    library = Library()
    monkeypatch.setattr(nft, "_library", lambda: library)
    monkeypatch.setattr(nft, "_low", nft._LowDescriptors())
    yield library
    while nft._low.free_one() is not None:
        pass


@pytest.fixture
def open_many(library):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    opened = []

    def open_many(number=2000):
        opened.append(os.open("/dev/null", os.O_RDONLY))
        while opened[-1] < number:
            opened.append(os.dup(opened[0]))

    yield open_many
    for fd in opened:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_too_many_open_files_are_an_error_and_not_an_abort(open_many):
    open_many()
    with pytest.raises(NoSpace):
        Nft()


def test_holds_can_be_set_with_two_thousand_files_open(library, open_many):
    """One container with many processes must not keep all others from being released."""
    nft.reserve_descriptors()
    open_many()
    for _ in range(3):
        contexts = [Nft() for _ in range(20)]
        assert max(library.sockets) < 1000
        for context in contexts:
            context.close()
    assert not library.sockets


def test_as_many_contexts_as_were_reserved_for_and_no_abort_beyond(library, open_many):
    nft.reserve_descriptors()
    open_many()
    contexts = [Nft() for _ in range(64)]
    assert max(library.sockets) < 1000
    with pytest.raises(NoSpace):
        Nft()
    for context in contexts:
        context.close()
    Nft().close()


def test_a_number_that_another_thread_took_is_not_used(library, open_many, monkeypatch):
    nft.reserve_descriptors()
    open_many()
    made, taken = library.nft_ctx_new, []

    def too_late(flags):
        if not taken:
            taken.append(os.open("/dev/null", os.O_RDONLY))
        return made(flags)

    monkeypatch.setattr(library, "nft_ctx_new", too_late)
    Nft().close()
    assert taken[0] < 1000
    assert not library.sockets
    os.close(taken[0])
