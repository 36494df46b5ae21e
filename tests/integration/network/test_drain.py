"""Listeners with waiting connections before a dump."""

import asyncio
import socket

import pytest

from crishim.errors import Precondition
from crishim.network.hold import SourceHold

PORT = 7070


@pytest.fixture(params=["10.77.0.2", "fd77::2"], ids=["v4", "v6"])
def address(request):
    return request.param


@pytest.fixture
def sockets():
    made = []
    yield made
    for sock in made:
        sock.close()


def listen(pod, address, sockets):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = pod.socket(family, socket.SOCK_STREAM)
    sockets.append(listener)
    listener.setblocking(False)
    listener.bind(("", PORT))
    listener.listen(16)
    return listener


def client(network, address, sockets):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    caller = network.client.socket(family, socket.SOCK_STREAM)
    sockets.append(caller)
    caller.setblocking(False)
    return caller


async def test_waiting_connections_are_waited_for(network, address, sockets):
    pod, loop = network.pod(2), asyncio.get_running_loop()
    listener = listen(pod, address, sockets)
    await loop.sock_connect(client(network, address, sockets), (address, PORT))
    held = await SourceHold.prepare(pod.path, lasting=True)
    try:
        draining = asyncio.create_task(held.drain(timeout_s=10))
        await asyncio.sleep(0.1)
        assert not draining.done()
        connection, _ = await loop.sock_accept(listener)
        sockets.append(connection)
        await draining
    finally:
        await held.release()


async def test_a_server_that_does_not_accept_is_named(network, address, sockets):
    pod, loop = network.pod(2), asyncio.get_running_loop()
    listener = listen(pod, address, sockets)
    await loop.sock_connect(client(network, address, sockets), (address, PORT))
    held = await SourceHold.prepare(pod.path, lasting=True)
    with pytest.raises(Precondition, match=rf"{PORT} \(1 waiting, 0 half\)"):
        await held.drain(timeout_s=0.05)
    await held.release()
    connection, _ = await loop.sock_accept(listener)
    sockets.append(connection)


async def test_a_connection_begun_meanwhile_is_accepted_after_the_release(
    network, address, sockets
):
    pod, loop = network.pod(2), asyncio.get_running_loop()
    listener = listen(pod, address, sockets)
    await loop.sock_connect(client(network, address, sockets), (address, PORT))
    first, _ = await loop.sock_accept(listener)
    sockets.append(first)
    held = await SourceHold.prepare(pod.path, lasting=False)
    await held.drain(timeout_s=1)
    late = client(network, address, sockets)
    connecting = asyncio.create_task(loop.sock_connect(late, (address, PORT)))
    await asyncio.sleep(0.1)
    assert not connecting.done()
    await loop.sock_sendall(first, b"old connections go on")
    await held.close()
    assert await held.release() >= 1
    # The client's own second try would come a second after the first.
    async with asyncio.timeout(0.7):
        await connecting


async def test_other_processes_listeners_do_not_count(network, address, sockets):
    pod, loop = network.pod(2), asyncio.get_running_loop()
    listen(pod, address, sockets)
    await loop.sock_connect(client(network, address, sockets), (address, PORT))
    held = await SourceHold.prepare(pod.path, lasting=False)
    await held.drain(timeout_s=0.05, listeners=[1])
    await held.release()
