"""What CRIU drops: looked into in one process, put back into another, as a restore does."""

import contextlib
import os
import socket
import subprocess
import sys

import pytest

from crishim.archive import carried as carrieds
from crishim.dump.gather import Gatherer
from crishim.errors import Precondition, Unsupported
from crishim.kernel import procs
from crishim.losses import Kind
from crishim.restore.putback import put_back

# Opens the same descriptors in the same order; with "changed" it holds something in each.
PROGRAM = """
import fcntl, json, mmap, os, socket, sys
member = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
member6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
if sys.argv[1] == "changed":
    index = socket.if_nametoindex("eth0")
    number = index.to_bytes(4, "little")
    group = socket.inet_aton("239.1.2.3") + socket.inet_aton("0.0.0.0") + number
    member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
    group6 = socket.inet_pton(socket.AF_INET6, "ff02::4242") + number
    member6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group6)
    member6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    plain.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 9)
    plain.bind(("127.0.0.1", 0))
    plain.sendto(b"unread", plain.getsockname())
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    file = open(sys.argv[2], "w+b")
    file.truncate(4096)
    memory = mmap.mmap(file.fileno(), 4096)
    fcntl.lockf(file, fcntl.LOCK_SH)
if sys.argv[1] == "corked":
    plain.setsockopt(socket.IPPROTO_UDP, 1, 1)
if sys.argv[1] in ("unread4", "shared"):
    if sys.argv[1] == "shared":
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    plain.bind(("", int((sys.argv + ["0"])[2])))
    if sys.argv[1] == "shared":
        plain.sendto(b"unread", ("127.0.0.1", plain.getsockname()[1]))
        raw.close()
if sys.argv[1] == "unread6":
    plain = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    plain.bind(("", int((sys.argv + ["0"])[2])))
if sys.argv[1].startswith("unread"):
    raw.close()
    plain.setblocking(False)
if sys.argv[1] == "netlink":
    kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    kernel.bind((0, 0))
    kernel.send(bytes.fromhex("14000000120001030100000000000000") + bytes(4))  # RTM_GETLINK
print("ready", flush=True)
for line in sys.stdin:
    if line == "port\\n":
        print(plain.getsockname()[1], flush=True)
        continue
    if line == "from\\n":
        print(plain.recvfrom(1, socket.MSG_PEEK)[1][1], flush=True)
        continue
    if line == "read\\n":
        found = []
        try:
            while True:
                data = plain.recv(1 << 16)
                found.append(data.decode() if len(data) < 99 else len(data))
        except BlockingIOError:
            print(found, flush=True)
        continue
    groups = open("/proc/net/igmp").read() + open("/proc/net/igmp6").read()
    print(json.dumps([
        "030201EF" in groups,
        "ff020000000000000000000000004242" in groups,
        member6.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF)
        == socket.if_nametoindex("eth0"),
        plain.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL) == 9,
        os.sched_getaffinity(0) == {max(os.sched_getaffinity(os.getpid()))},
    ]), flush=True)
"""


@contextlib.contextmanager
def program(space, *words):
    """Run it as first process of its own pid namespace; give its id and its pipes."""
    inside = ["nsenter", f"--net={space.path}", "unshare", "--pid", "--fork", "--kill-child"]
    with subprocess.Popen(
        [*inside, sys.executable, "-c", PROGRAM, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield procs.descendants(process.pid)[-1], process
        finally:
            process.kill()


def state(process, word="?"):
    process.stdin.write(f"{word}\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


@pytest.fixture
def spare_processor():
    """Give the test's programs more processors than one."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one processor only")


async def look(space, pid, *, ends=False):
    gatherer = Gatherer(space.path, pid, ends=ends)
    async with contextlib.AsyncExitStack() as undo:
        await gatherer.before_pause(undo, [pid])
        await gatherer.in_pause([pid])
    return gatherer


async def test_it_is_found_and_put_back(network, tmp_path, spare_processor):
    old, new = network.pod(2), network.pod(3)
    new.ip("link", "add", "pad0", "type", "veth")  # so that numbers of interfaces differ
    with program(old, "changed", str(tmp_path / "index")) as (pid, source):
        assert state(source) == "[true, true, true, true, true]"
        found = await look(old, pid)
        carried = carrieds.decode(carrieds.encode(found.carried))
    assert [loss.kind for loss in found.losses] == [Kind.FILE_LOCK] + [Kind.SOCKET_QUEUE] * 2
    assert "process 1 of the container" in found.losses[0].what
    assert "UDP socket at 127.0.0.1" in found.losses[1].what
    assert "raw socket" in found.losses[2].what
    with program(new, "plain") as (pid, target):
        assert (await look(new, pid)).carried == carrieds.Carried()
        assert state(target).startswith("[false, false, false, false")
        assert put_back(carried, pid) == []
        assert state(target) == "[true, true, true, true, true]"
        assert (await look(new, pid)).carried == carried


@pytest.mark.parametrize("family", [4, 6])
async def test_unread_datagrams_travel_where_their_owner_ends(network, family):
    old, new = network.pod(2), network.pod(3)
    own = "10.77.0.2" if family == 4 else "fd77::2"
    with program(old, f"unread{family}") as (pid, source):
        port = int(state(source, "port"))
        with old.socket(
            socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM
        ) as far:
            for data in (b"one", b"", b"x" * 60_000):
                far.sendto(data, (own, port))
            sender = far.getsockname()[1]
        told = await look(old, pid)
        assert [loss.kind for loss in told.losses] == [Kind.SOCKET_QUEUE]
        found = await look(old, pid, ends=True)
        assert found.losses == []
        carried = carrieds.decode(found.entry())
        assert state(source, "read") == "['one', '', 60000]"  # and nothing was taken
    with program(new, f"unread{family}", str(port)) as (pid, target):
        (lost,) = put_back(carried, pid)
        assert lost.kind is Kind.SOCKET_QUEUE  # the address is another pod's
        new.ip("addr", "add", f"{own}/{32 if family == 4 else 128}", "dev", "lo")
        assert put_back(carried, pid) == []
        assert state(target, "from") == str(sender)
        assert state(target, "read") == "['one', '', 60000]"


async def test_what_came_for_a_group_or_several_sockets_is_told(network):
    space = network.pod(2)
    with program(space, "shared") as (pid, _):
        found = await look(space, pid, ends=True)
    assert ["shared with other sockets" in loss.what for loss in found.losses] == [True]
    assert found.carried == carrieds.Carried()


async def test_a_netlink_socket_that_nobody_reads_is_refused(network):
    space = network.pod(2)
    with program(space, "netlink") as (pid, _), pytest.raises(Precondition, match="netlink"):
        await look(space, pid)


async def test_a_corked_socket_is_refused(network, tmp_path, spare_processor):
    space = network.pod(2)
    with program(space, "corked") as (pid, _), pytest.raises(Unsupported, match="UDP_CORK"):
        await look(space, pid)


async def test_what_cannot_be_put_back_is_said(network, tmp_path, spare_processor):
    old, new = network.pod(2), network.namespace()  # it has no eth0
    with program(old, "changed", str(tmp_path / "index")) as (pid, _):
        carried = (await look(old, pid)).carried
    with program(new, "plain") as (pid, _):
        told = {loss.kind for loss in put_back(carried, pid)}
        assert told == {Kind.MEMBERSHIP, Kind.SOCKET_OPTION}
