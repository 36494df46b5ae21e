"""Threads that could not be restored as they were, with real processes."""

import contextlib
import ctypes
import os
import subprocess
import sys

import pytest

from crishim.dump.checks import threads
from crishim.losses import Kind

GIVE_UP = "import ctypes; c = ctypes.CDLL(None); assert c.prctl(38, 1, 0, 0, 0) == 0\n"
LANDLOCK = (
    GIVE_UP
    + "f = c.syscall(444, ctypes.create_string_buffer(b'\\2' + bytes(7), 8), 8, 0)\n"
    + "assert f >= 0 and c.syscall(446, f, 0) == 0\n"
)
# A filter that lets everything through: one BPF instruction, RET ALLOW.
SECCOMP = (
    GIVE_UP
    + "import struct\n"
    + "one = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0x7FFF0000), 8)\n"
    + "prog = ctypes.create_string_buffer(struct.pack('HxxxxxxP', 1, ctypes.addressof(one)), 16)\n"
    + "assert c.prctl(22, 2, prog, 0, 0) == 0\n"
)
IN_A_THREAD = "import threading, time\ndef run():\n    {}\n    time.sleep(600)\n"


@contextlib.contextmanager
def running(setup):
    code = setup + "\nprint('ready', flush=True); input()"
    argv = [sys.executable, "-c", code]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"ready\n"
            yield process.pid
        finally:
            process.kill()


@pytest.fixture
def landlock():
    if ctypes.CDLL(None).syscall(444, None, 0, 1) < 1:
        pytest.skip("this kernel has no Landlock")


def test_a_program_that_may_have_confined_itself_is_told_of(landlock):
    with running(LANDLOCK) as pid:
        (told,) = threads.check({}, [os.getpid(), pid])
    assert told.kind is Kind.CONFINEMENT and "Landlock" in told.what and told.cure


def test_one_thread_is_enough(landlock):
    """A server such as HAProxy gives up new privileges without any Landlock: it is not refused."""
    body = "import ctypes; c = ctypes.CDLL(None); c.prctl(38, 1, 0, 0, 0)"
    thread = IN_A_THREAD.format(body) + "threading.Thread(target=run, daemon=True).start()\n"
    with running(thread + "time.sleep(0.1)") as pid:
        (told,) = threads.check({}, [pid])
    assert "given up new privileges" in told.what


def test_filters_of_its_own_are_a_reason_too(landlock):
    with running(SECCOMP) as pid:
        (told,) = threads.check({}, [os.getpid(), pid])
    assert told.kind is Kind.CONFINEMENT and "Landlock" in told.what


def test_what_the_specification_asks_for_says_nothing(landlock):
    with running(LANDLOCK) as pid:
        assert threads.check({"process": {"noNewPrivileges": True}}, [pid]) == []


def test_an_ordinary_process():
    with running("") as pid:
        assert threads.check({}, [pid, 1 << 22]) == []
