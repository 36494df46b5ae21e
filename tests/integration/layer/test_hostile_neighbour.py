"""A container of the pod exchanges names for links while shared memory is written: all in vain."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from crishim.archive.reader import ArchiveReader
from crishim.archive.writer import ArchiveWriter
from crishim.container import shm
from crishim.errors import CrishimError
from crishim.layer.capture import LayerCapture
from crishim.layer.overlay import plain_overlay
from crishim.layer.read import read_layer
from crishim.restore.shm import apply_shared_memory
from tests.integration.layer.walker import view
from tests.unit.samples import manifest

KINDS = ("fifo", "link", "file", "directory", "hard")
COUNT = 300
ROUNDS = 4

ATTACKER = r"""
import ctypes, os, sys
directory, victim, *names = sys.argv[1:]
exchange = ctypes.CDLL(None).renameat2
fd, won = os.open(directory, os.O_RDONLY), 0
os.symlink(victim, ".l", dir_fd=fd)
print("go", flush=True)
for name in map(os.fsencode, names):
    for _ in range(400_000):
        if exchange(fd, b".l", fd, name, 2) == 0:  # RENAME_EXCHANGE: fails until it is there
            won += 1
            os.rename(".l", f".taken-{won}", src_dir_fd=fd, dst_dir_fd=fd)
            os.symlink(victim, ".l", dir_fd=fd)
            break
    else:
        break
"""


def populate(directory: Path, kind: str) -> None:
    """Make entries of one kind with owners, modes, times and attributes worth stealing."""
    for number in range(COUNT):
        path = directory / f"f{number:04}"
        if kind == "fifo":
            os.mkfifo(path)
            os.chmod(path, 0o6777)
        elif kind == "link":
            path.symlink_to("f0000")
        elif kind == "directory":
            path.mkdir()
            (path / "inside").write_text("evil")
            os.chmod(path, 0o2777)
        elif kind == "hard" and number % 2:
            os.link(directory / f"f{number - 1:04}", path)
        else:
            path.write_text("evil")
            os.chmod(path, 0o6777)
        os.lchown(path, 1234, 1234)
        if kind != "link":
            os.setxattr(path, "trusted.evil", b"1")
        os.utime(path, (1, 1), follow_symlinks=False)


@pytest.fixture
def victims(tmp_path):
    """A file and a directory of the node that nothing may touch."""
    path = tmp_path / "node"
    (path / "directory").mkdir(parents=True, mode=0o700)
    for name in ("file", "directory/inside"):
        (path / name).write_text("precious")
        os.chmod(path / name, 0o600)
        os.setxattr(path / name, "user.mine", b"1")
    before = view(path)
    yield path
    assert view(path) == before


@pytest.fixture(params=KINDS)
def archive(request, tmp_path):
    """An archive with shared memory, and the names in it in their order."""
    source = tmp_path / "source"
    source.mkdir()
    populate(source, request.param)
    with ArchiveWriter.create(tmp_path / "a.tar") as writer:
        begin = writer.begin_member(shm.MEMBER)
        end = LayerCapture(plain_overlay(source)).first_pass(writer.fd, begin)
        names = [item.path[0].decode() for item in read_layer(writer.fd, begin, end) if item.path]
        writer.end_member(end)
        writer.commit(manifest())
    with ArchiveReader.open(tmp_path / "a.tar", trusted_owner=False) as reader:
        yield reader, list(dict.fromkeys(names))


def was_exchanged(directory: Path, victim: Path) -> bool:
    """Whether the attacker, now dead, won a race: told by what lies there, not by what it said.

    A restore that refuses at the exchange ends the attacker before it can say a word.
    """
    link = directory / ".l"
    if not link.is_symlink() or link.readlink() != victim:
        return True
    return any(name.startswith(".taken-") for name in os.listdir(directory))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("target", ["file", "directory"])
def test_nothing_outside_changes(victims, archive, tmp_path, target, shared):
    reader, names = archive
    won = 0
    for number in range(ROUNDS):
        directory = tmp_path / f"shm-{number}"
        directory.mkdir(mode=0o777)
        spec = {
            "mounts": [{"destination": "/dev/shm", "type": "bind", "source": str(directory)}],
        }
        command = [sys.executable, "-c", ATTACKER, directory, victims / target, *names]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as attacker:
            try:
                attacker.stdout.readline()
                apply_shared_memory(reader, spec, shared=shared)
            except CrishimError:
                pass  # It may refuse, as long as it harms nobody.
            finally:
                attacker.kill()
                attacker.wait()
                won += was_exchanged(directory, victims / target)
    assert won


def test_devices_are_left_out_rather_than_refused_later(tmp_path):
    source, target = tmp_path / "one", tmp_path / "two"
    for path in (source, target):
        path.mkdir()
    for device in (0, os.makedev(1, 3)):
        os.mknod(source / f"device-{device}", stat.S_IFCHR | 0o600, device)
    (source / "file").write_text("x")
    with open(tmp_path / "tar", "w+b") as tar:
        end = LayerCapture(plain_overlay(source), devices=False).first_pass(tar.fileno(), 0)
        paths = [entry.path for entry in read_layer(tar.fileno(), 0, end)]
    assert paths == [(), (b"file",)]
