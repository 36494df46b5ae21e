"""The hold on a real TCP connection between a client, one routed hop away, and a pod."""

import asyncio
import contextlib
import errno
import os
import socket

import pytest

from crishim.errors import NotFound, Precondition, ToolFailed
from crishim.kernel.net.netns import NetnsThread
from crishim.kernel.net.sockdiag import CLOSING, SockDiag
from crishim.network import address as addresses
from crishim.network import hold, neighbours
from crishim.tools.nft import Nft
from tests.integration.network.conftest import Resets, ip
from tests.integration.network.talk import Talk

HELD_S = 0.5
# A client that waits for a retransmission comes back after 0.845 s of such a hold.
GAP_S = HELD_S * 1.3


def tables(netns):
    thread = NetnsThread(netns)
    try:
        nft = thread.call(Nft)
        found = thread.call(nft.tables)
        thread.call(nft.close)
        return [name for _, name in found]
    finally:
        thread.close()


@pytest.fixture(params=["10.77.0.2", "fd77::2"], ids=["v4", "v6"])
def address(request):
    return request.param


async def test_release_lets_the_client_go_on_at_once(network, address):
    pod = network.pod(2)
    held = await hold.SourceHold.prepare(pod.path, lasting=False)
    async with Talk(server=pod, client=network.client, address=address) as talk:
        await held.close()
        before = talk.answers
        await asyncio.sleep(HELD_S)
        during = talk.answers - before
        sent = await held.release()
        await talk.answered(50)
    assert during <= 1
    assert sent >= 1
    assert HELD_S * 0.9 < talk.longest_gap_s < GAP_S
    assert tables(pod.path) == []


async def test_release_without_close_is_harmless(network):
    pod = network.pod(2)
    held = await hold.SourceHold.prepare(pod.path, lasting=False)
    assert await held.release() == 0
    assert await held.release() == 0
    assert tables(pod.path) == []


async def test_a_passing_hold_ends_with_its_maker(network):
    pod = network.pod(2)
    held = await hold.SourceHold.prepare(pod.path, lasting=False)
    await held.close()
    standing = tables(pod.path)
    await held.close_catching()
    assert standing == [held.record.table]
    assert tables(pod.path) == []


async def test_a_lasting_hold_stays_until_it_is_removed(network):
    pod = network.pod(2)
    held = await hold.SourceHold.prepare(pod.path, lasting=True)
    await held.close()
    await held.leave_namespace()
    await held.close_catching()
    record = hold.HoldRecord(**held.record.to_json())
    assert tables(pod.path) == [record.table]
    assert await hold.standing(pod.path) == [record]
    await hold.remove(record)
    assert tables(pod.path) == []
    await hold.remove(record)


async def test_what_a_release_could_not_remove_is_removed_later(network, monkeypatch):
    pod = network.pod(2)
    held = await hold.SourceHold.prepare(pod.path, lasting=True)
    await held.close()
    with monkeypatch.context() as broken:
        broken.setattr(Nft, "run", refuse)
        with pytest.raises(ToolFailed):
            await hold.remove(held.record)
        await held.release()
        with pytest.raises(ToolFailed):
            await hold.remove_left()
    assert tables(pod.path) == [held.record.table]
    await hold.remove_left()
    assert tables(pod.path) == []


def refuse(*_):
    raise ToolFailed("nft", 1)


async def test_a_hold_of_the_node_goes_on_while_it_is_set_again(network):
    node = hold.NodeHold(["10.77.0.2", "fd77::2"], sandbox="0123456789ab")
    for _ in range(2):
        await node.close()
        assert await hold.standing("") == [node.record]
    await hold.remove(node.record)
    assert await hold.standing("") == []


async def test_a_namespace_that_cannot_be_entered_is_not_taken_for_gone(network, monkeypatch):
    pod = network.pod(2)
    held = await hold.SourceHold.prepare(pod.path, lasting=True)
    await held.close()
    await held.close_catching()
    opened = os.open

    def too_many(path, *arguments):
        if path == pod.path:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return opened(path, *arguments)

    with monkeypatch.context() as full:
        full.setattr(os, "open", too_many)
        with pytest.raises(Precondition):
            await hold.remove(held.record)
    await hold.remove(held.record)
    assert tables(pod.path) == []


async def test_the_node_knows_a_silent_pod_until_it_speaks_again(network):
    pod, other = network.pod(2), "10.77.0.9"
    ip("neigh", "add", other, "lladdr", "02:00:00:00:00:09", "dev", "cr0", "nud", "permanent")
    held = await hold.SourceHold.prepare(pod.path, lasting=False)
    await held.drain(timeout_s=1)
    await held.close()
    during = network.known_for_good()
    await held.release()
    assert during == {"10.77.0.2", "fd77::2", other}
    assert network.known_for_good() == {other}


async def test_a_pod_that_goes_on_in_part_speaks_for_itself(network):
    pod = network.pod(2)
    held = await hold.SourceHold.prepare(pod.path, lasting=False)
    await held.drain(timeout_s=1, listeners=[])
    during = network.known_for_good()
    await held.release()
    assert during == set()


async def test_what_a_crash_left_known_is_found_without_a_record(network):
    kept, stale = network.pod(3), network.pod(4)
    for pod in (kept, stale):
        await neighbours.fix(pod.path, await addresses.read(pod.path))
    neighbours.sweep(keep=["10.77.0.3", "fd77::3"])
    assert network.known_for_good() == {"10.77.0.3", "fd77::3"}
    await neighbours.loosen(["10.77.0.3", "fd77::3"])
    assert network.known_for_good() == set()


async def test_connections_of_a_failed_restore_are_forgotten(network, address):
    pod = network.pod(2)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    held = await hold.TargetHold.prepare(pod.path)
    with (
        Resets(network.client) as resets,
        pod.socket(family, socket.SOCK_STREAM) as listener,
        network.client.socket(family, socket.SOCK_STREAM) as caller,
    ):
        listener.bind(("", 7001))
        listener.listen()
        caller.connect((address, 7001))
        connection, _ = listener.accept()
        await held.close()
        connection.close()
        assert closing(pod) == [address]
        await hold.end_closed(pod.path, ["10.77.0.3"])
        assert closing(pod) == [address]
        await hold.end_closed(pod.path, [address])
        await held.abandon()
        assert closing(pod) == []
        await asyncio.sleep(HELD_S)
        assert resets.seen == []


async def test_nothing_gets_out_behind_a_sealed_hold(network, address):
    pod = network.pod(2)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    held = await hold.TargetHold.prepare(pod.path)
    with (
        pod.socket(family, socket.SOCK_STREAM) as listener,
        network.client.socket(family, socket.SOCK_STREAM) as caller,
    ):
        listener.bind(("", 7001))
        listener.listen()
        caller.connect((address, 7001))
        caller.settimeout(HELD_S)
        with listener.accept()[0] as connection:
            await held.close()
            connection.send(b"gets out")
            assert caller.recv(100) == b"gets out"
            await held.seal()
            connection.send(b"stays in")
            with pytest.raises(TimeoutError):
                caller.recv(100)
            await held.abandon()
            assert tables(pod.path) == []
            caller.settimeout(5)
            assert caller.recv(100) == b"stays in"


def closing(pod):
    """Return the addresses of the pod's connections that are being ended."""
    thread = NetnsThread(pod.path)
    try:
        with contextlib.closing(thread.call(SockDiag)) as diag:
            return [found.local for found in diag.tcp(CLOSING)]
    finally:
        thread.close()


async def test_no_such_namespace():
    with pytest.raises(NotFound):
        await hold.SourceHold.prepare("/run/netns/crishim-none", lasting=False)


async def test_a_pod_may_send_datagrams_to_itself_but_no_tcp(network):
    """TCP sends again what is dropped; a datagram, sent as soon as a process runs again, is not."""
    pod = network.pod(2)
    held = await hold.SourceHold.prepare(pod.path, lasting=False)
    with (
        pod.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        pod.socket(socket.AF_INET, socket.SOCK_STREAM) as listener,
        pod.socket(socket.AF_INET, socket.SOCK_STREAM) as caller,
    ):
        datagrams.bind(("127.0.0.1", 0))
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        await held.close()
        datagrams.settimeout(1)
        datagrams.sendto(b"own", datagrams.getsockname())
        assert datagrams.recv(10) == b"own"
        caller.settimeout(0.2)
        with pytest.raises(TimeoutError):
            caller.connect(listener.getsockname())
        await held.release()
