"""What is found in the pause and would have been refused before it."""

import contextlib
import os
import socket

import pytest

from crishim.dump.gather import Gatherer
from crishim.errors import Unsupported

UDP_CORK = 1


@contextlib.contextmanager
def late_socket():
    """A socket that CRIU cannot dump."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as late:
        late.setsockopt(socket.IPPROTO_UDP, UDP_CORK, 1)
        yield


@contextlib.contextmanager
def carried_socket():
    """A socket with an option that is to be carried."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 7)
        yield


async def test_a_source_that_ends_is_not_ended():
    async with contextlib.AsyncExitStack() as undo:
        gatherer = Gatherer("", os.getpid(), ends=True)
        await gatherer.before_pause(undo, [os.getpid()])
        with late_socket(), pytest.raises(Unsupported, match="UDP_CORK"):
            await gatherer.in_pause([os.getpid()])


async def test_where_it_goes_on_it_is_told_and_costs_the_others_nothing():
    async with contextlib.AsyncExitStack() as undo:
        gatherer = Gatherer("", os.getpid(), ends=False)
        await gatherer.before_pause(undo, [os.getpid()])
        with late_socket(), carried_socket():
            await gatherer.in_pause([os.getpid()])
    assert [loss for loss in gatherer.losses if "UDP_CORK" in loss.what]
    assert len(gatherer.carried.sockets) == 1
