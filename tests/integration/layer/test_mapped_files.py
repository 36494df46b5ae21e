"""What is written without a new time at the moment of writing arrives all the same.

A store into a page of a mapping that is dirty already moves no time, and one write(2) moves it when
it begins. On a disk's file system, whose kernel writes back whenever it likes.
"""

import ctypes
import fcntl
import mmap
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from crishim.kernel import mounts, procs
from tests.integration.layer.conftest import OverlayRoot
from tests.integration.layer.test_later_passes import settle
from tests.integration.layer.test_roundtrip import travel

SMALL, LARGE = 8192, 9 << 20
QUIET_S = 0.15
"""Longer than the time in which a file counts as possibly written again."""


@pytest.fixture
def disk():
    """A directory on a disk: a tmpfs, as /tmp may be, never moves a time for a mapping."""
    path = Path(tempfile.mkdtemp(prefix="crishim-test-", dir="/var/log"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def source(disk, lower):
    return OverlayRoot(disk / "source", lower)


class Mapped:
    """A file in the root that this process has mapped shared."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.memory = None

    def make(self, root: Path) -> None:
        self.path = root / "db"
        self.path.write_bytes(bytes(self.size))
        settle(root.parent / "upper")

    def map(self) -> None:
        with open(self.path, "r+b") as file:
            self.memory = mmap.mmap(file.fileno(), self.size)

    def write(self, data: bytes) -> None:
        self.memory[4096 : 4096 + len(data)] = data

    def begin(self) -> None:
        """Map it and write; the kernel's clock goes on before whatever comes next."""
        self.map()
        self.write(b"old")
        time.sleep(QUIET_S)

    def end(self) -> None:
        """Write again, as late, and unmap it."""
        time.sleep(QUIET_S)
        self.write(b"new")
        self.memory.close()

    def found(self) -> list[procs.SharedMapping]:
        root = str(self.path.parent)
        return [
            procs.SharedMapping(item.inode, item.path.removeprefix(root))
            for item in procs.shared_mappings([os.getpid()])
            if item.path.startswith(root)
        ]


@pytest.fixture(params=[SMALL, LARGE])
def file(request):
    file = Mapped(request.param)
    yield file
    if file.memory is not None:
        file.memory.close()


def test_mapped_before_a_pass_and_gone_before_the_next(source, target, tmp_path, file):
    def before(root: Path) -> None:
        file.make(root)
        file.begin()

    steps = {"before": before, "between": lambda _: file.end(), "mapped": file.found}
    expected, found = travel(source, target, tmp_path / "a.tar", **steps)
    assert found == expected
    assert found["db"]["content"][4096:4099] == b"new"


@pytest.mark.parametrize("which", [0, 1])
def test_mapped_during_a_pass_and_gone_before_the_next(source, target, tmp_path, file, which):
    """It is mapped and written right after we have looked which files are."""
    looks = 0

    def look() -> list[procs.SharedMapping]:
        nonlocal looks
        found = file.found()
        if looks == which:
            file.begin()
        looks += 1
        return found

    def write(_: Path) -> None:
        if looks == which + 1:
            file.end()

    steps = {"before": file.make, "between": write, "later": write, "mapped": look}
    expected, found = travel(source, target, tmp_path / "a.tar", **steps)
    assert found == expected
    assert found["db"]["content"][4096:4099] == b"new"


def test_a_file_of_the_image_that_was_copied_up_to_be_mapped(source, target, tmp_path):
    """The kernel's table of mappings has the number of the file in the image."""
    file = Mapped(SMALL)
    (source.lower / "db").write_bytes(bytes(SMALL))

    def before(root: Path) -> None:
        file.path = root / "db"
        file.begin()

    steps = {"before": before, "between": lambda _: file.end(), "mapped": file.found}
    expected, found = travel(source, target, tmp_path / "a.tar", **steps)
    assert found == expected


def test_a_layer_in_memory_where_no_mapping_ever_moves_a_time(target, lower, tmp_path, file):
    (tmp_path / "memory").mkdir()
    mounts.mount("none", tmp_path / "memory", fs_type="tmpfs")
    try:
        source = OverlayRoot(tmp_path / "memory/source", lower)

        def before(root: Path) -> None:
            file.make(root)
            file.map()

        def later(_: Path) -> None:
            file.write(b"new")
            file.memory.close()

        steps = {"before": before, "later": later}
        expected, found = travel(source, target, tmp_path / "a.tar", **steps)
        assert found == expected
    finally:
        mounts.umount(tmp_path / "memory")


class SlowMemory:
    """Memory whose second half is not there before `release`: who reads it in the kernel waits.

    Source: userfaultfd(2), ioctl_userfaultfd(2).
    """

    def __init__(self, size: int) -> None:
        self.memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.memory[: size // 2] = b"n" * (size // 2)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory)) + size // 2
        self.fd = ctypes.CDLL(None).syscall(323, os.O_CLOEXEC)
        fcntl.ioctl(self.fd, 0xC018AA3F, struct.pack("QQQ", 0xAA, 0, 0))
        fcntl.ioctl(self.fd, 0xC020AA00, struct.pack("QQQQ", address, size // 2, 1, 0))

    def release(self) -> None:
        os.close(self.fd)


def test_one_write_that_takes_long(source, target, tmp_path):
    """Its time is that of its beginning; what it has not written yet comes later."""
    slow = SlowMemory(LARGE)
    writer = threading.Thread(target=lambda: None)

    def before(root: Path) -> None:
        nonlocal writer
        (root / "large").write_bytes(b"o" * LARGE)
        settle(source.upper)
        fd = os.open(root / "large", os.O_WRONLY)
        writer = threading.Thread(target=lambda: (os.pwrite(fd, slow.memory, 0), os.close(fd)))
        writer.start()
        time.sleep(QUIET_S)
        threading.Timer(0.3, slow.release).start()

    def between(_: Path) -> None:
        writer.join()

    expected, found = travel(source, target, tmp_path / "a.tar", before=before, between=between)
    assert found == expected
    assert found["large"]["content"] == b"n" * (LARGE // 2) + bytes(LARGE // 2)


LMDB = """
while True:
    for name in ("data.mdb", "lock.mdb"):
        with open(name, "r+b" if os.path.exists(name) else "w+b") as file:
            file.truncate(12 << 20 if name == "data.mdb" else 8192)
            with mmap.mmap(file.fileno(), 0) as memory:
                for _ in range(choice.randrange(200)):
                    memory[choice.randrange(len(memory))] = choice.randrange(256)
                    time.sleep(choice.random() / 2000)
"""
INDEX = """
number = 0
while True:
    number += 1
    with open(f"{number % 8:08}.index", "w+b") as file:
        file.truncate(1 << 20)
        with mmap.mmap(file.fileno(), 0) as memory:
            for place in range(0, 4000, 8):
                memory[place : place + 8] = number.to_bytes(8, "big")
                time.sleep(0.0002)
        file.truncate(4000)
"""
LINKER = """
number = 0
while True:
    number += 1
    with open("output.new", "w+b") as file:
        file.truncate(300_000)
        with mmap.mmap(file.fileno(), 0) as memory:
            for place in range(0, 300_000, 300):
                memory[place : place + 300] = os.urandom(300)
                if not place % 3000:
                    time.sleep(0.001)
    os.rename("output.new", f"output-{number % 5}")
    time.sleep(choice.random() / 20)
"""


@pytest.mark.parametrize("seed", range(3))
def test_programs_that_map_files_all_the_time(source, target, tmp_path, seed):
    """A database, an index of a log and a linker go on during the passes, and stop for the last."""
    begin = f"import mmap, os, random, time\nchoice = random.Random({seed})\n"
    programs: list[subprocess.Popen[bytes]] = []
    names = ("lmdb", "index", "linker")

    def start(root: Path) -> None:
        for name, text in zip(names, (LMDB, INDEX, LINKER), strict=True):
            (root / name).mkdir()
            command = [sys.executable, "-c", begin + text]
            programs.append(subprocess.Popen(command, cwd=root / name))
        time.sleep(0.4)

    def look() -> list[procs.SharedMapping]:
        root = str(source.merged)
        return [
            procs.SharedMapping(item.inode, item.path.removeprefix(root))
            for item in procs.shared_mappings([program.pid for program in programs])
        ]

    def freeze(_: Path) -> None:
        time.sleep(0.2)
        for program in programs:
            program.send_signal(signal.SIGSTOP)
            os.waitpid(program.pid, os.WUNTRACED)

    steps = {
        "before": start,
        "between": lambda _: time.sleep(0.3),
        "later": freeze,
        "mapped": look,
        "at_the_end": lambda: [(program.kill(), program.wait()) for program in programs],
    }
    expected, found = travel(source, target, tmp_path / "a.tar", **steps)
    assert found == expected
