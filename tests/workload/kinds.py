"""What the client's connections do with the workload; none of them ever connects again.

count    a numbered message, its answer checked, T ms of rest
stream   blocks of known content in both directions, with full buffers on both sides
trickle  our direction is ended; the workload goes on sending numbered lines
hush     the workload's direction is ended; we go on sending numbered lines
storm    new connections without end: one message each, answered, closed
"""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time

BLOCK_BYTES = 64 << 10
LAST_BLOCK = (1 << 64) - 1


class Connection(threading.Thread):
    """One connection with a message under way at a time."""

    def __init__(self, address: str, port: int, period_s: float) -> None:
        super().__init__(daemon=True)
        self.end = (address, port)
        self.socket = self.connect()
        self.period_s = period_s
        self.answered = 0
        self.first = self.last = 0
        self.errors: list[str] = []
        self.gap = (0.0, 0.0, 0.0)
        self.before = time.time()
        self.stop = False

    def connect(self) -> socket.socket:
        connection = socket.create_connection(self.end, timeout=60)
        connection.settimeout(120)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    @property
    def ports(self) -> set[int]:
        """Our end, if it is ours for good."""
        return {self.socket.getsockname()[1]}

    def run(self) -> None:
        try:
            self.talk()
        except (OSError, ValueError, http.client.HTTPException) as error:
            if not self.stop:
                self.errors.append(repr(error))

    def talk(self) -> None:
        answers = self.socket.makefile("rb")
        while not self.stop:
            self.ask(self.socket, answers, self.answered + 1)
            time.sleep(self.period_s)

    def ask(self, connection: socket.socket, answers, number: int) -> None:
        connection.sendall(b"count %d\n" % number)
        self.check_answer(number, answers.readline().split())

    def check_answer(self, number: int, words: list[bytes]) -> None:
        if len(words) != 3 or words[0] != b"count" or int(words[1]) != number:
            raise ValueError(f"message {number} was answered by {words!r}")
        self.last = int(words[2])
        self.first = self.first or self.last
        self.note(number)

    def note(self, number: int) -> None:
        """Something came: the `number`th."""
        now = time.time()
        if now - self.before > self.gap[0]:
            self.gap = (now - self.before, self.before, now)
        self.before = now
        self.answered = number

    def finish(self) -> None:
        """End it; what then turns out to be wrong is an error too."""
        self.stop = True


def pattern() -> bytes:
    """Return the content of a block, as the workload's `fill` makes it."""
    words, x = [], 2463534242
    for _ in range((BLOCK_BYTES - 8) // 4):
        x ^= x << 13 & 0xFFFFFFFF
        x ^= x >> 17
        x ^= x << 5 & 0xFFFFFFFF
        words.append(x)
    return struct.pack(f"<{len(words)}I", *words)


class Stream(Connection):
    """Blocks in both directions; each side reads slower than the other writes."""

    def __init__(self, address: str, port: int, period_s: float) -> None:
        super().__init__(address, port, period_s)
        self.pattern = pattern()
        self.sent = 0
        self.sender = threading.Thread(target=self.send, daemon=True)
        self.socket.sendall(b"stream\n")
        if self.socket.recv(7, socket.MSG_WAITALL) != b"stream\n":
            raise ValueError("no stream")

    def talk(self) -> None:
        self.sender.start()
        blocks = self.socket.makefile("rb", buffering=BLOCK_BYTES)
        for number in range(LAST_BLOCK):
            block = blocks.read(BLOCK_BYTES)
            if len(block) != BLOCK_BYTES:
                raise ValueError(f"the stream ended in block {number}")
            if struct.unpack_from("!Q", block)[0] == LAST_BLOCK:
                self.check(*struct.unpack_from("!QQ", block, 8))
                return
            if block != struct.pack("!Q", number) + self.pattern:
                raise ValueError(f"block {number} is not what was sent")
            self.note(number + 1)
            if not self.stop:
                time.sleep(0.001)

    def check(self, received: int, wrong: int) -> None:
        if received != self.sent or wrong:
            self.errors.append(f"{self.sent} blocks sent, {received} received, {wrong} wrong")

    def send(self) -> None:
        try:
            while not self.stop:
                self.socket.sendall(struct.pack("!Q", self.sent) + self.pattern)
                self.sent += 1
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.errors.append(f"sending: {error!r}")

    def run(self) -> None:
        try:
            self.talk()
        except (OSError, ValueError) as error:
            self.errors.append(repr(error))

    def finish(self) -> None:
        self.stop = True
        self.join(60)
        if self.is_alive():
            self.errors.append("the stream did not end")


class Trickle(Connection):
    """Lines come in a direction that alone is still open."""

    def __init__(self, address: str, port: int, period_s: float) -> None:
        super().__init__(address, port, period_s)
        self.socket.sendall(b"trickle\n")
        self.socket.shutdown(socket.SHUT_WR)
        time.sleep(0.1)

    def talk(self) -> None:
        lines = self.socket.makefile("rb")
        while not self.stop:
            line = lines.readline()
            if line != b"tick %d\n" % (self.answered + 1):
                raise ValueError(f"line {self.answered + 1} is {line!r}")
            self.note(self.answered + 1)


class Hush(Connection):
    """Lines go out in a direction that alone is still open; `answered` counts what was sent."""

    def __init__(self, address: str, port: int, period_s: float) -> None:
        super().__init__(address, port, period_s)
        self.socket.sendall(b"hush\n")
        if self.socket.recv(1) != b"":
            raise ValueError("the workload did not end its direction")

    def talk(self) -> None:
        while not self.stop:
            self.socket.sendall(b"tick %d\n" % (self.answered + 1))
            self.note(self.answered + 1)
            time.sleep(self.period_s)


class Http(Connection):
    """Requests over one connection; a server that ended it would be an error."""

    def connect(self) -> socket.socket:
        self.http = http.client.HTTPConnection(*self.end, timeout=120)
        self.http.connect()
        self.http.auto_open = 0
        return self.http.sock

    def talk(self) -> None:
        while not self.stop:
            number = self.answered + 1
            self.http.request("POST", "/count", body=b"%d" % number)
            self.check_answer(number, self.http.getresponse().read().split())
            time.sleep(self.period_s)


class Storm(Connection):
    """One new connection after the other."""

    @property
    def ports(self) -> set[int]:
        return set()

    def talk(self) -> None:
        self.socket.close()
        while not self.stop:
            with self.connect() as connection:
                connection.settimeout(60)
                self.ask(connection, connection.makefile("rb"), self.answered + 1)


KINDS = {
    "count": Connection,
    "stream": Stream,
    "trickle": Trickle,
    "hush": Hush,
    "http": Http,
    "storm": Storm,
}
