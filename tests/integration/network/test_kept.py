"""One container of a pod is held, another one goes on."""

import asyncio
import socket

import pytest

from crishim.network.hold import SourceHold
from tests.integration.network.talk import Talk

HELD_S = 0.5


@pytest.fixture(params=["10.77.0.2", "fd77::2"], ids=["v4", "v6"])
def address(request):
    return request.param


async def held_for_a_while(hold, talk):
    """Hold one container's sockets as a dump does."""
    inodes = talk.inodes()
    await hold.drain(timeout_s=1, listeners=inodes)
    only = await hold.sockets(inodes)
    await hold.close(only)
    await asyncio.sleep(HELD_S)


async def test_only_the_held_container_waits(network, address):
    pod = network.pod(2)
    hold = await SourceHold.prepare(pod.path, lasting=False)
    async with (
        Talk(server=pod, client=network.client, address=address, port=7001) as one,
        Talk(server=pod, client=network.client, address=address, port=7002) as other,
    ):
        await held_for_a_while(hold, one)
        await hold.release()
        await one.answered(50)
        await other.answered(50)
    assert HELD_S * 0.9 < one.longest_gap_s < HELD_S * 1.4
    assert other.longest_gap_s < HELD_S / 2


async def test_connections_inside_the_pod_are_held_too(network, address):
    pod = network.pod(2)
    hold = await SourceHold.prepare(pod.path, lasting=False)
    async with Talk(server=pod, client=pod, address=address) as talk:
        before = talk.answers
        await held_for_a_while(hold, talk)
        assert talk.answers - before < 20
        await hold.release()
        await talk.answered(50)


async def test_new_connections_reach_the_other_container(network, address):
    pod, loop = network.pod(2), asyncio.get_running_loop()
    hold = await SourceHold.prepare(pod.path, lasting=False)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    async with Talk(server=pod, client=network.client, address=address, port=7001) as one:
        with (
            pod.socket(family, socket.SOCK_STREAM) as listener,
            network.client.socket(family, socket.SOCK_STREAM) as caller,
            network.client.socket(family, socket.SOCK_STREAM) as waiting,
        ):
            for sock in (listener, caller, waiting):
                sock.setblocking(False)
            listener.bind(("", 7002))
            listener.listen()
            await held_for_a_while(hold, one)
            late = asyncio.create_task(loop.sock_connect(waiting, (address, 7001)))
            await loop.sock_connect(caller, (address, 7002))
            assert not late.done()
            await hold.release()
            async with asyncio.timeout(0.7):
                await late
