"""A small network of its own for each test: a node with a bridge, pods on it, a client behind it.

The test's thread moves into a fresh network namespace, which plays the node; pods and the client
are namespaces that a sleeping process holds. Nothing of the machine's own network is touched.
"""

import asyncio
import contextlib
import ctypes
import os
import socket
import subprocess
from dataclasses import dataclass

import pytest

from crishim.kernel.net.netns import NetnsThread
from crishim.tools.nft import Nft

CLONE_NEWNET = 0x40000000
GATEWAY4, GATEWAY6 = "10.77.0.1", "fd77::1"
CLIENT4, CLIENT6 = "10.78.0.2", "fd78::2"


def ip(*arguments, netns=""):
    inside = ["nsenter", f"--net={netns}"] if netns else []
    subprocess.run([*inside, "ip", *arguments], check=True)


@dataclass
class Namespace:
    holder: subprocess.Popen

    @property
    def path(self):
        return f"/proc/{self.holder.pid}/ns/net"

    def socket(self, *arguments):
        """Make a socket that lives in this namespace, wherever it is used."""
        thread = NetnsThread(self.path)
        try:
            return thread.call(socket.socket, *arguments)
        finally:
            thread.close()

    def ip(self, *arguments):
        ip(*arguments, netns=self.path)

    def end(self):
        self.holder.kill()
        self.holder.wait()


class Resets:
    """Watch an interface for what ends connections: RST, FIN, ICMP errors."""

    def __init__(self, space):
        self.seen = []
        self.frames = 0
        self._socket = space.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))

    def __enter__(self):
        self._socket.setblocking(False)
        asyncio.get_running_loop().add_reader(self._socket, self._read)
        return self

    def __exit__(self, *exc):
        self._read()
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _read(self):
        with contextlib.suppress(BlockingIOError):
            while True:
                self._look(self._socket.recv(1 << 16))

    def _look(self, frame):
        self.frames += 1
        kind = frame[12:14]
        if kind == b"\x08\x00":
            protocol, body = frame[23], frame[14 + 4 * (frame[14] & 15) :]
        elif kind == b"\x86\xdd":
            protocol, body = frame[20], frame[54:]
        else:
            return
        if protocol == socket.IPPROTO_TCP and body[13] & 5:
            self.seen.append(f"TCP flags {body[13]:#x} {frame[6:12].hex(':')}")
        elif protocol == socket.IPPROTO_ICMP and body[0] == 3:
            self.seen.append(f"ICMP unreachable {body[1]}")
        elif protocol == socket.IPPROTO_ICMPV6 and body[0] < 128:
            self.seen.append(f"ICMPv6 error {body[0]}")


class Network:
    def __init__(self):
        self.namespaces = []
        self.client = self.namespace()
        self._node()

    def namespace(self):
        # unshare(1) replaces itself by sleep, so that the pid is the one that we end.
        holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo; exec sleep infinity"], stdout=subprocess.PIPE
        )
        holder.stdout.readline()
        holder.stdout.close()
        space = Namespace(holder)
        self.namespaces.append(space)
        space.ip("link", "set", "lo", "up")
        return space

    def _node(self):
        ip("link", "set", "lo", "up")
        ip("link", "add", "cr0", "type", "bridge")
        ip("link", "set", "cr0", "up")
        ip("addr", "add", f"{GATEWAY4}/24", "dev", "cr0")
        ip("-6", "addr", "add", f"{GATEWAY6}/64", "dev", "cr0", "nodad")
        for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            with open(f"/proc/sys/net/{key}", "w") as file:
                file.write("1")
        self.wire("up0", self.client, "02:00:00:00:78:02")
        ip("addr", "add", "10.78.0.1/24", "dev", "up0")
        ip("-6", "addr", "add", "fd78::1/64", "dev", "up0", "nodad")
        self.address(self.client, CLIENT4, CLIENT6, via=("10.78.0.1", "fd78::1"))

    def wire(self, name, space, mac):
        pid = str(space.holder.pid)
        ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", pid)
        ip("link", "set", name, "up")
        space.ip("link", "set", "eth0", "address", mac, "up")

    def address(self, space, v4, v6, *, via=(GATEWAY4, GATEWAY6), bits4=24):
        space.ip("addr", "add", f"{v4}/{bits4}", "dev", "eth0")
        space.ip("-6", "addr", "add", f"{v6}/64", "dev", "eth0", "nodad")
        space.ip("route", "add", "default", "via", via[0])
        space.ip("-6", "route", "add", "default", "via", via[1])

    def pod(self, number):
        """Add a pod as the bridge plugin would: port pod<number>, 10.77.0.<number>."""
        space = self.namespace()
        self.wire(f"pod{number}", space, f"02:00:00:00:77:{number:02x}")
        ip("link", "set", f"pod{number}", "master", "cr0")
        self.address(space, f"10.77.0.{number}", f"fd77::{number:x}")
        return space

    def routed_pod(self, number):
        """Add a pod as the ptp plugin would: 10.66.0.<number>, a route to it alone."""
        space, name = self.namespace(), f"pod{number}"
        v4, v6 = f"10.66.0.{number}", f"fd66::{number:x}"
        self.wire(name, space, f"02:00:00:00:66:{number:02x}")
        ip("addr", "add", "10.66.0.1/32", "dev", name)
        ip("-6", "addr", "add", "fd66::1/128", "dev", name, "nodad")
        ip("route", "add", f"{v4}/32", "dev", name)
        ip("-6", "route", "add", f"{v6}/128", "dev", name)
        space.ip("addr", "add", f"{v4}/24", "dev", "eth0", "noprefixroute")
        space.ip("-6", "addr", "add", f"{v6}/64", "dev", "eth0", "nodad", "noprefixroute")
        space.ip("route", "add", "10.66.0.1", "dev", "eth0", "scope", "link", "src", v4)
        space.ip("route", "add", "10.66.0.0/24", "via", "10.66.0.1", "src", v4)
        space.ip("route", "add", "default", "via", "10.66.0.1")
        space.ip("-6", "route", "add", "fd66::1", "dev", "eth0")
        space.ip("-6", "route", "add", "default", "via", "fd66::1")
        return space

    def remove(self, space):
        """End a pod: its veth goes, then its namespace."""
        space.ip("link", "del", "eth0")
        space.end()

    def routes(self):
        done = subprocess.run(["ip", "route"], stdout=subprocess.PIPE, check=True, text=True)
        return done.stdout.splitlines()

    def tables(self):
        """The nftables tables of the node."""
        with contextlib.closing(Nft()) as nft:
            return nft.tables()

    def known_for_good(self):
        """The addresses that the node has a permanent neighbour entry for."""
        argv = ["ip", "neigh", "show", "nud", "permanent"]
        done = subprocess.run(argv, stdout=subprocess.PIPE, check=True, text=True)
        return {line.split()[0] for line in done.stdout.splitlines()}

    def close(self):
        for space in self.namespaces:
            space.end()


@pytest.fixture
def network():
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    try:
        built = Network()
        try:
            yield built
        finally:
            built.close()
    finally:
        assert libc.setns(own, CLONE_NEWNET) == 0
        os.close(own)
