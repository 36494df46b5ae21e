"""Holds what CRIU drops, and says twenty times a second whether it still has it.

Prints `ok N`, or `WRONG N error`; N goes on in memory. A lock on a mapped file is held too, and not
looked at: nobody can put it back.
"""

import ctypes
import fcntl
import mmap
import os
import platform
import socket
import struct
import threading
import time

LOOPBACK = "127.0.0.1"
libc = ctypes.CDLL(None, use_errno=True)
looks = []


def holds(make):
    """Make something now, and keep the function that looks at it later."""
    looks.append(make())
    return make


def talk(family, receiver, sender, destination):
    """Send to a group and expect it to arrive."""
    receiver.settimeout(0.5)
    sender.sendto(b"to all", (destination, receiver.getsockname()[1]))
    assert receiver.recv(100) == b"to all", family


@holds
def group():
    """A membership, and the interface by which another socket sends to the group."""
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("239.1.2.3", 0))
    membership = socket.inet_aton("239.1.2.3") + socket.inet_aton(LOOPBACK)
    receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(LOOPBACK))
    return lambda: talk("group", receiver, sender, "239.1.2.3")


@holds
def filtered_group():
    """A membership for one source only: what others send stays away."""
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("232.1.2.3", 0))
    address = socket.inet_aton("232.1.2.3") + socket.inet_aton(LOOPBACK)
    receiver.setsockopt(socket.IPPROTO_IP, 39, address + socket.inet_aton("127.0.0.9"))
    senders = []
    for source in ("127.0.0.9", LOOPBACK):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sender.bind((source, 0))
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(LOOPBACK))
        senders.append(sender)

    def look():
        talk("source", receiver, senders[0], "232.1.2.3")
        receiver.settimeout(0.01)
        senders[1].sendto(b"from elsewhere", ("232.1.2.3", receiver.getsockname()[1]))
        try:
            raise AssertionError(f"not filtered: {receiver.recv(100)}")
        except TimeoutError:
            return

    return look


@holds
def group6():
    """A membership of IPv6 on the pod's interface."""
    index = socket.if_nametoindex("eth0")
    receiver = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    receiver.bind(("ff02::4242", 0, 0, index))
    membership = socket.inet_pton(socket.AF_INET6, "ff02::4242") + struct.pack("@I", index)
    receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, membership)

    def look():
        with open("/proc/net/igmp6") as groups:
            wanted = any("4242 " in line for line in groups)
        assert wanted, f"the group is left: {receiver}"

    return look


@holds
def options():
    """Options of a connection and of a socket without one."""
    server = socket.create_server((LOOPBACK, 0))
    client = socket.create_connection(server.getsockname())
    peer, _ = server.accept()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 12345)
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 7)
    datagrams.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)

    def look():
        assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 12345
        assert datagrams.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL) == 7
        assert datagrams.getsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS) == 1
        client.send(b"x")
        assert peer.recv(1) == b"x"

    return look


@holds
def scheduling():
    """Processors, timer slack and I/O priority, of this thread and of another one."""
    processors = sorted(os.sched_getaffinity(0))
    seen = {}

    def state():
        number = {"x86_64": 252, "aarch64": 31}[platform.machine()]
        return sorted(os.sched_getaffinity(0)), libc.prctl(30), libc.syscall(number, 1, 0)

    def thread():
        os.sched_setaffinity(0, processors[:1])
        libc.syscall({"x86_64": 251, "aarch64": 30}[platform.machine()], 1, 0, 3 << 13)  # idle
        seen["then"] = state()
        while True:
            seen["now"] = state()
            time.sleep(0.02)

    threading.Thread(target=thread, daemon=True).start()
    os.sched_setaffinity(0, processors[-1:])
    libc.prctl(29, 123456)
    own = state()
    time.sleep(0.1)

    def look():
        assert state() == own, (state(), own)
        assert seen["now"] == seen["then"], seen

    return look


@holds
def queue():
    """Datagrams that nobody has read."""
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind((LOOPBACK, 0))
    receiver.setblocking(False)
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for number in range(5):
        sender.sendto(b"datagram %d" % number, receiver.getsockname())
    own = (LOOPBACK, sender.getsockname()[1])

    def look():
        assert receiver.recvfrom(100, socket.MSG_PEEK) == (b"datagram 0", own)

    return look


def main():
    with open("/index", "w+b") as file:
        file.truncate(4096)
        memory = mmap.mmap(file.fileno(), 4096)
        fcntl.lockf(file, fcntl.LOCK_SH)
        number = 0
        while memory is not None:
            number += 1
            for look in looks:
                try:
                    look()
                except Exception as error:  # noqa: BLE001 - it is the answer
                    name = look.__qualname__.partition(".")[0]
                    print(f"WRONG {number} {name}: {error!r}", flush=True)
            print(f"ok {number}", flush=True)
            time.sleep(0.05)


main()
