"""What cannot be looked into is not taken for empty: a refusal that rests on it would be missed."""

import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from crishim.errors import Precondition
from crishim.kernel import cgroup, openlinks, procs


@pytest.fixture
def process():
    """A process with a socket and a mapping of its own."""
    code = "import socket; s = socket.socket(); print('ready', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        yield child.pid
        child.stdin.close()


ROLLUP = """\
55d0c0000000-7ffd00000000 ---p 00000000 00:00 0                          [rollup]
Rss:               10240 kB
Pss_Shmem:            30 kB
Anonymous:           100 kB
Shared_Hugetlb:     2048 kB
Private_Hugetlb:    4096 kB
Swap:                900 kB
SwapPss:             700 kB
"""


def test_what_is_swapped_out_or_huge_counts(monkeypatch):
    """A dump reads it too; what several processes share is written once."""
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: ROLLUP)
    own = (30 + 100 + 4096 + 700) << 10
    assert procs.memory_bytes([os.getpid()]) == own + (2048 << 10)
    assert procs.memory_bytes([os.getpid()] * 3) == 3 * own + (2048 << 10)


@pytest.fixture
def no_descriptors():
    """Nothing can be opened any more, as on a daemon that has too much open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = [os.open("/dev/null", os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (used[0] + 1, hard))
    while True:
        try:
            used.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            break
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for fd in used:
        os.close(fd)


def test_sockets_are_found(process):
    assert procs.open_files([process]).sockets


LOOKS = (
    procs.open_files,
    procs.shared_mappings,
    procs.nameless_files,
    procs.memory_bytes,
    procs.system_v_memory,
)


@pytest.mark.parametrize("look", LOOKS)
def test_a_process_that_is_gone_counts_as_nothing(look):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert not getattr(look([child.pid]), "sockets", look([child.pid]))


@pytest.mark.parametrize("look", LOOKS)
def test_a_process_that_cannot_be_looked_into_is_an_error(look, process, no_descriptors):
    with pytest.raises(Precondition, match=f"cannot look into process {process}"):
        look([process])


def test_a_cgroup_that_cannot_be_read_is_not_an_empty_one(tmp_path, no_descriptors):
    with pytest.raises(OSError, match="Too many open files"):
        cgroup.processes(tmp_path)


def test_a_cgroup_that_is_gone_has_no_processes(tmp_path):
    assert cgroup.processes(Path(tmp_path, "gone")) == []


def test_policies_of_memory_are_read_past_any_name_of_a_file():
    table = b"7f0000 default file=/lib/a\rb mapped=3\n7f1000 bind:0 anon=1\n"
    assert procs.policies(table) == {"default", "bind:0"}


def test_a_socket_at_an_odd_path_is_found_there(tmp_path):
    path = str(tmp_path / "a\rb\x0cc")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        assert (os.getpid(), path) in openlinks.bound_sockets(os.getpid(), [os.getpid()])
