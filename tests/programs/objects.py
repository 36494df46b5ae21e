"""Holds one of each kind of kernel object that programs live on, and tells which still work.

Usage: objects.py PORT. Each line from a client is answered by a JSON object: name of a kind to
true, or to what went wrong.
"""

import ctypes
import fcntl
import json
import mmap
import multiprocessing
import os
import select
import signal
import socket
import struct
import sys
import tempfile
import threading
import time

CHECKS = {}
_libc = ctypes.CDLL(None, use_errno=True)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])  # in all threads, for signalfd


def check(make):
    """Make an object now, through `make`, and keep the function that looks at it later."""
    CHECKS[make.__name__] = make()
    return make


@check
def pipe():
    """What lies unread in a pipe."""
    reader, writer = os.pipe()
    os.write(writer, b"unread")

    def look():
        assert os.read(reader, 100) == b"unread"
        os.write(writer, b"unread")

    return look


@check
def socket_pair():
    """A message in flight in a UNIX socket pair."""
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    one.send(b"in flight")

    def look():
        assert two.recv(100) == b"in flight"
        one.send(b"in flight")

    return look


@check
def unix_listener():
    """A UNIX socket by its path, with a connection."""
    path = os.path.join(tempfile.mkdtemp(), "socket")
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    old = socket.socket(socket.AF_UNIX)
    old.connect(path)
    peer, _ = server.accept()

    def look():
        old.send(b"hello")
        assert peer.recv(10) == b"hello"
        with socket.socket(socket.AF_UNIX) as new:
            new.connect(path)
            server.accept()[0].close()

    return look


@check
def udp():
    """A bound and a connected UDP socket."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.connect(server.getsockname())

    def look():
        client.send(b"datagram")
        assert server.recv(100) == b"datagram"

    return look


@check
def loopback():
    """A TCP connection of the pod with itself."""
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    peer, _ = server.accept()

    def look():
        client.send(b"round")
        assert peer.recv(100) == b"round"
        peer.send(b"trip")
        assert client.recv(100) == b"trip"

    return look


@check
def epoll():
    """A file descriptor in an epoll set."""
    reader, writer = os.pipe()
    poll = select.epoll()
    poll.register(reader, select.EPOLLIN)

    def look():
        assert poll.poll(0) == []
        os.write(writer, b"x")
        assert poll.poll(5) == [(reader, select.EPOLLIN)]
        os.read(reader, 1)

    return look


@check
def eventfd():
    """The count in an eventfd."""
    fd = os.eventfd(7)

    def look():
        assert os.eventfd_read(fd) == 7
        os.eventfd_write(fd, 7)

    return look


@check
def timerfd():
    """A timer that goes on ticking."""
    fd = _libc.timerfd_create(time.CLOCK_MONOTONIC, 0)
    _libc.timerfd_settime(fd, 0, struct.pack("qqqq", 0, 50_000_000, 0, 50_000_000), None)

    def look():
        os.read(fd, 8)
        assert os.read(fd, 8) >= struct.pack("q", 1)

    return look


@check
def interval_timer():
    """A POSIX interval timer that signals the process."""
    seen = threading.Event()
    signal.signal(signal.SIGALRM, lambda *_: seen.set())
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)

    def look():
        seen.clear()
        assert seen.wait(5)

    return look


@check
def shared_file():
    """A file mapped shared."""
    with open(os.path.join(tempfile.mkdtemp(), "file"), "w+b") as file:
        file.truncate(4096)
        memory = mmap.mmap(file.fileno(), 4096)
    memory[:6] = b"mapped"

    def look():
        assert memory[:6] == b"mapped"
        with open(file.name, "rb") as again:
            assert again.read(6) == b"mapped"

    return look


@check
def file_lock():
    """A lock on a file."""
    path = os.path.join(tempfile.mkdtemp(), "file")
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.lockf(fd, fcntl.LOCK_EX)

    def look():
        child = os.fork()  # here a second descriptor, closed, would end the lock
        if child == 0:
            try:
                fcntl.lockf(os.open(path, os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0, "the lock is gone"

    return look


@check
def dev_shm():
    """A file in the pod's shared memory, mapped."""
    with open(f"/dev/shm/objects-{os.getpid()}", "w+b") as file:
        file.truncate(1 << 20)
        memory = mmap.mmap(file.fileno(), 1 << 20)
    memory[:3] = b"shm"

    def look():
        assert memory[:3] == b"shm"

    return look


@check
def anonymous_shared():
    """Memory shared with a child, which counts in it."""
    memory = mmap.mmap(-1, 4096)
    child = os.fork()
    if child == 0:
        while True:
            memory[:8] = struct.pack("Q", struct.unpack("Q", memory[:8])[0] + 1)
            time.sleep(0.01)

    def look():
        before = memory[:8]
        time.sleep(0.2)
        assert memory[:8] != before, "the child stands still"
        os.kill(child, 0)

    return look


@check
def semaphore():
    """A POSIX semaphore."""
    item = multiprocessing.get_context("fork").Semaphore(2)

    def look():
        assert item.acquire(timeout=5)
        item.release()

    return look


@check
def memfd():
    """An anonymous file in memory, sealed."""
    fd = os.memfd_create("objects", os.MFD_ALLOW_SEALING)
    os.write(fd, b"memfd")
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)

    def look():
        assert os.pread(fd, 10, 0) == b"memfd"
        assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == fcntl.F_SEAL_GROW

    return look


@check
def session():
    """A child in a session of its own, in another directory, with a limit and a mask."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        import resource

        os.setsid()
        os.chdir("/tmp")
        os.umask(0o27)
        resource.setrlimit(resource.RLIMIT_NOFILE, (77, 88))

        def report(*_):
            now = (os.getsid(0) == os.getpid(), os.getcwd(), os.umask(0o27))
            os.write(writer, repr((*now, resource.getrlimit(resource.RLIMIT_NOFILE))).encode())

        signal.signal(signal.SIGUSR1, report)
        while True:
            signal.pause()

    def look():
        os.kill(child, signal.SIGUSR1)
        assert os.read(reader, 200) == b"(True, '/tmp', 23, (77, 88))"

    return look


@check
def zombie():
    """A child that has ended and was not waited for."""
    child = os.fork()
    if child == 0:
        os._exit(5)

    def look():
        info = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        assert info.si_status == 5

    return look


@check
def threads():
    """Threads that wait for each other."""
    ask, answer = threading.Event(), threading.Event()

    def run():
        while True:
            ask.wait()
            ask.clear()
            answer.set()

    threading.Thread(target=run, daemon=True).start()

    def look():
        answer.clear()
        ask.set()
        assert answer.wait(5)

    return look


@check
def fifo():
    """A named pipe, open at both ends."""
    path = os.path.join(tempfile.mkdtemp(), "fifo")
    os.mkfifo(path)
    fd = os.open(path, os.O_RDWR)
    os.write(fd, b"queued")

    def look():
        assert os.read(fd, 10) == b"queued"
        os.write(fd, b"queued")

    return look


@check
def directory():
    """A directory, open while entries come."""
    path = tempfile.mkdtemp()
    fd = os.open(path, os.O_RDONLY)
    open(os.path.join(path, "entry"), "w").close()

    def look():
        assert os.listdir(fd) == ["entry"]

    return look


@check
def system_v():
    """A System V shared memory segment, attached, and a semaphore."""
    segment = _libc.shmget(0x7357, 8192, 0o1600)
    _libc.shmat.restype = ctypes.c_void_p
    address = _libc.shmat(segment, None, 0)
    ctypes.memmove(address, b"segment", 7)
    semaphores = _libc.semget(0x7357, 1, 0o1600)
    _libc.semctl(semaphores, 0, 16, 3)  # SETVAL

    def look():
        assert ctypes.string_at(address, 7) == b"segment"
        again = _libc.shmat(_libc.shmget(0x7357, 8192, 0), None, 0)
        assert ctypes.string_at(again, 7) == b"segment"
        _libc.shmdt(ctypes.c_void_p(again))
        assert _libc.semctl(semaphores, 0, 12) == 3  # GETVAL

    return look


@check
def signalfd():
    """A signal that waits in a signalfd."""
    mask = struct.pack("Q", 1 << (signal.SIGUSR2 - 1))
    fd = _libc.signalfd(-1, mask, 0)
    os.kill(os.getpid(), signal.SIGUSR2)

    def look():
        assert struct.unpack_from("I", os.read(fd, 128))[0] == signal.SIGUSR2
        os.kill(os.getpid(), signal.SIGUSR2)

    return look


@check
def pidfd():
    """A file descriptor of a child."""
    child = os.fork()
    if child == 0:
        while True:
            time.sleep(10)
    fd = os.pidfd_open(child)

    def look():
        signal.pidfd_send_signal(fd, 0)

    return look


@check
def shared_port():
    """Two sockets that listen on one port, in IPv6."""
    servers = []
    for _ in range(2):
        server = socket.socket(socket.AF_INET6)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        server.bind(("::", 9999))
        server.listen()
        server.setblocking(False)
        servers.append(server)

    def look():
        with socket.create_connection(("::1", 9999)):
            ready, _, _ = select.select(servers, [], [], 5)
            ready[0].accept()[0].close()

    return look


@check
def deep_directory():
    """A working directory that was removed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        gone = tempfile.mkdtemp()
        os.chdir(gone)
        os.rmdir(gone)
        while True:
            time.sleep(0.02)
            os.write(writer, b"alive")

    def look():
        assert os.read(reader, 5) == b"alive"

    return look


def event_watches(data):
    """The watches of inotify events."""
    found = set()
    while data:
        watch, _, _, name_bytes = struct.unpack_from("iIII", data)
        found.add(watch)
        data = data[16 + name_bytes :]
    return found


@check
def inotify():
    """Watches on a directory, on a file in it, and on the root."""
    path = os.path.join(tempfile.mkdtemp(), "watched")
    os.makedirs(os.path.join(path, "deep"))
    open(os.path.join(path, "file"), "w").close()
    fd = _libc.inotify_init1(os.O_NONBLOCK)
    places = {}
    for place in ("/", path, os.path.join(path, "file"), os.path.join(path, "deep")):
        places[place] = _libc.inotify_add_watch(fd, place.encode(), 0x4)  # IN_ATTRIB
        assert places[place] > 0

    def look():
        for place, watch in places.items():
            os.chmod(place, os.stat(place).st_mode)
            assert watch in event_watches(os.read(fd, 4096))

    return look


def main():
    server = socket.create_server(("", int(sys.argv[1])))
    while True:
        connection, _ = server.accept()
        with connection, connection.makefile("rw") as lines:
            for _ in lines:
                result = {}
                for name, look in CHECKS.items():
                    try:
                        look()
                        result[name] = True
                    except Exception as error:  # noqa: BLE001 - it is the answer
                        result[name] = repr(error)
                lines.write(json.dumps(result) + "\n")
                lines.flush()


main()
