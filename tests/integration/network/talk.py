"""A TCP conversation that notices: numbered messages, each answered, errors and gaps recorded."""

import asyncio
import contextlib
import os
import socket
import struct
import time

from tests.integration.network import repair

PORT = 7777
MESSAGE = struct.Struct("!Q")


class Talk:
    """A client that sends a number each 2 ms and checks the echo of the server.

    Args: server, client: namespaces. address: of the server, IPv4 or IPv6.
    """

    def __init__(self, *, server, client, address, port=PORT):
        self._port = port
        self.answers = 0
        self.longest_gap_s = 0.0
        self.address = address
        self._family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = server.socket(self._family, socket.SOCK_STREAM)
        self._caller = client.socket(self._family, socket.SOCK_STREAM)

    async def __aenter__(self):
        loop = asyncio.get_running_loop()
        for sock in (self._listener, self._caller):
            sock.setblocking(False)
        self._listener.bind(("", self._port))
        self._listener.listen()
        accepting = loop.create_task(loop.sock_accept(self._listener))
        await loop.sock_connect(self._caller, (self.address, self._port))
        self._caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection, _ = await accepting
        self.connection.setblocking(False)
        loop.add_reader(self.connection, self._echo)
        self._calling = loop.create_task(self._call())
        await self.answered(20)
        self.longest_gap_s = 0.0
        return self

    async def __aexit__(self, *exc):
        self._calling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._calling
        self.freeze()
        for sock in (self._listener, self._caller, self.connection):
            sock.close()

    def _echo(self):
        # Reading and answering is one step, so that a frozen server has not lost what it read.
        self.connection.sendall(self.connection.recv(1 << 16))

    async def _call(self):
        loop = asyncio.get_running_loop()
        last = time.monotonic()
        for number in range(1 << 32):
            await loop.sock_sendall(self._caller, MESSAGE.pack(number))
            answer = b""
            while len(answer) < MESSAGE.size:
                part = await loop.sock_recv(self._caller, MESSAGE.size - len(answer))
                assert part, "the server ended the connection"
                answer += part
            assert MESSAGE.unpack(answer) == (number,)
            now = time.monotonic()
            self.longest_gap_s = max(self.longest_gap_s, now - last)
            last = now
            self.answers += 1
            await asyncio.sleep(0.002)

    def inodes(self):
        """The server's sockets as the kernel names them."""
        return {os.fstat(sock.fileno()).st_ino for sock in (self._listener, self.connection)}

    def freeze(self):
        """Stop the server where it is."""
        asyncio.get_running_loop().remove_reader(self.connection)

    def dump(self):
        """End the frozen server's sockets without a word; return the connection."""
        self._listener.close()
        return repair.take(self.connection)

    def restore(self, namespace, state):
        """Make the connection in another namespace, and let the server go on there."""
        self.connection = namespace.socket(self._family, socket.SOCK_STREAM)
        repair.give(self.connection, state)
        repair.wake(self.connection)
        self.connection.setblocking(False)
        asyncio.get_running_loop().add_reader(self.connection, self._echo)

    async def answered(self, more):
        """Wait until so many more answers have come; the client's error is raised here."""
        wanted = self.answers + more
        async with asyncio.timeout(20):
            while self.answers < wanted:
                if self._calling.done():
                    self._calling.result()
                await asyncio.sleep(0.005)
