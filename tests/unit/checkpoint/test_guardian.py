"""The guardian as a process of its own: it acts when its pipe ends without the word.

The cgroup is an ordinary directory with the kernel's file in it.
"""

import asyncio
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from crishim.checkpoint import guardian
from crishim.checkpoint.guardian import Guardian
from crishim.kernel import process


@pytest.fixture
def charge(tmp_path):
    for name in ("cgroup", "dump"):
        (tmp_path / name).mkdir()
    (tmp_path / "cgroup" / "cgroup.freeze").write_text("1")
    (tmp_path / "half.partial").touch()
    return {
        "dump": tmp_path / "dump",
        "partial": tmp_path / "half.partial",
        "freezer": tmp_path / "cgroup",
        "netns": "",
        "table": "",
    }


def frozen(charge) -> bool:
    return (charge["freezer"] / "cgroup.freeze").read_text() == "1"


def orphaned(charge) -> None:
    """Run a guardian whose daemon dies right after it has given the charge."""
    line = json.dumps({name: str(value) for name, value in charge.items()})
    argv = [sys.executable, "-I", "-S", guardian.__file__]
    subprocess.run(argv, input=line.encode() + b"\n", check=True, timeout=60)


async def test_a_discharged_guardian_touches_nothing(charge):
    watching = Guardian(**charge, locked=())
    await watching.start(process.environment())
    await watching.discharge()
    await watching.discharge()
    assert frozen(charge)
    assert charge["partial"].exists()


async def test_discharge_without_start(charge):
    await Guardian(**charge, locked=()).discharge()
    assert charge["partial"].exists()


async def test_locks_are_kept_as_long_as_the_guardian_lives(charge):
    fd = os.open(charge["partial"], os.O_RDWR)
    other = os.open(charge["partial"], os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    watching = Guardian(**charge, locked=(fd,))
    await watching.start(process.environment())
    os.close(fd)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    await watching.discharge()
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)


def test_an_orphan_thaws_and_removes_the_half_archive(charge):
    orphaned(charge)
    assert not frozen(charge)
    assert not charge["partial"].exists()


def test_an_orphan_thaws_on_cgroup_v1_too(charge):
    state = charge["freezer"] / "freezer.state"
    state.write_text("FROZEN")
    orphaned(charge)
    assert state.read_text() == "THAWED"


def test_an_orphan_thaws_nothing_once_the_archive_has_appeared(charge):
    charge["partial"].unlink()
    orphaned(charge)
    assert frozen(charge)


@pytest.mark.parametrize(
    "trouble", [{"freezer": Path("/gone")}, {"netns": Path("/gone"), "table": "netdev x"}]
)
def test_one_step_that_fails_does_not_stop_the_others(charge, trouble):
    orphaned({**charge, **trouble})
    assert not charge["partial"].exists()
    assert frozen(charge) == ("freezer" in trouble)


async def test_an_orphan_waits_for_the_dump_and_unblocks_it(charge):
    page = charge["dump"] / "images" / "pages-1.img"
    page.parent.mkdir()
    os.mkfifo(page)
    # Like CRIU it blocks in open() because nobody reads; it is known by its name and the path.
    script = 'exec 3> "$0"'
    dump = subprocess.Popen(["runc", "-c", script, str(page)], executable="/bin/sh")
    try:
        await asyncio.to_thread(orphaned, charge)
        assert dump.wait(timeout=20) == 0
    finally:
        dump.kill()
        dump.wait()
    assert not frozen(charge)
