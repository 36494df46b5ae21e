"""The guardian as a process of its own: it acts when its pipe ends without the word.

The cgroup is an ordinary directory with the kernel's file in it.
"""

import asyncio
import fcntl
import os
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from crishim.container import dumpnotes
from crishim.dump import guardian
from crishim.dump.guardian import Guardian
from crishim.kernel import process
from crishim.modes import TcpMode
from crishim.restore.options import runc_options
from crishim.tools import atwork, runc


@pytest.fixture
def charge(tmp_path):
    for name in ("cgroup", "dump"):
        (tmp_path / name).mkdir()
    (tmp_path / "cgroup" / "cgroup.freeze").write_text("1")
    fd = os.open(tmp_path / "half.partial", os.O_RDWR | os.O_CREAT)
    yield {
        "dump": tmp_path / "dump",
        "partial": tmp_path / "half.partial",
        "target": None,
        "freezer": tmp_path / "cgroup",
        "hold": None,
        "locked": (fd,),
    }
    os.close(fd)


@pytest.fixture
def stopping(charge, tmp_path):
    """The charge of a dump with `stop` whose archive is about to get its name."""
    return {**charge, "target": tmp_path / "whole.tar"}


def frozen(charge) -> bool:
    return (charge["freezer"] / "cgroup.freeze").read_text() == "1"


def orphaned(charge) -> str:
    """Run a guardian whose daemon dies right after it has given the charge; return what it says."""

    async def die() -> None:
        watching = Guardian(**charge)
        await watching.start(process.environment())
        await watching.act()

    with tempfile.TemporaryFile() as said:
        stderr = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            asyncio.run(die())
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        said.seek(0)
        return said.read().decode()


async def test_a_discharged_guardian_touches_nothing(charge):
    watching = Guardian(**charge)
    await watching.start(process.environment())
    await watching.discharge()
    await watching.discharge()
    assert frozen(charge)
    assert charge["partial"].exists()


async def test_a_guardian_that_was_killed_is_missed_before_the_pause(charge):
    watching = Guardian(**charge)
    with pytest.raises(ChildProcessError):
        watching.check()
    await watching.start(process.environment())
    watching.check()
    watching._process.kill()
    await watching._process.wait()
    with pytest.raises(ChildProcessError):
        watching.check()
    await watching.discharge()
    assert frozen(charge)


async def test_discharge_without_start(charge):
    await Guardian(**charge).discharge()
    assert charge["partial"].exists()


async def test_locks_are_kept_as_long_as_the_guardian_lives(charge):
    fd = os.open(charge["partial"], os.O_RDWR)
    other = os.open(charge["partial"], os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    watching = Guardian(**{**charge, "locked": (fd,)})
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


def test_an_orphan_thaws_nothing_once_the_archive_has_appeared(stopping):
    stopping["partial"].rename(stopping["target"])
    assert "stays frozen" in orphaned(stopping)
    assert frozen(stopping)
    assert stopping["target"].exists()


def test_an_orphan_of_a_dump_without_stop_thaws_all_the_same(charge, tmp_path):
    charge["partial"].rename(tmp_path / "whole.tar")
    orphaned(charge)
    assert not frozen(charge)
    assert (tmp_path / "whole.tar").exists()


def test_a_half_archive_that_somebody_has_removed_is_no_whole_one(stopping):
    stopping["partial"].unlink()
    orphaned(stopping)
    assert not frozen(stopping)


def test_the_half_archive_is_there_still(stopping):
    orphaned(stopping)
    assert not frozen(stopping)
    assert not stopping["partial"].exists()


def test_another_file_of_the_archives_name_proves_nothing(stopping):
    stopping["target"].write_bytes(b"older")
    orphaned(stopping)
    assert not frozen(stopping)
    assert stopping["target"].read_bytes() == b"older"


def test_an_archive_that_was_moved_may_be_there(stopping, tmp_path):
    """Nobody can tell: the container stays frozen, and the guardian says so."""
    stopping["partial"].rename(tmp_path / "elsewhere")
    said = orphaned(stopping)
    assert "the container stays frozen: nobody can tell where its checkpoint" in said
    assert frozen(stopping)


def test_before_its_end_nothing_is_asked_of_the_archives_disk(stopping, tmp_path):
    """Which may hang: nobody has tried yet to give it its name."""
    (stopping["dump"] / "half").touch()
    stopping["partial"].rename(tmp_path / "elsewhere")
    orphaned(stopping)
    assert not frozen(stopping)


@pytest.mark.parametrize(
    "trouble",
    [
        {"freezer": Path("/gone")},
        {"hold": {"netns": "/gone", "family": "netdev", "table": "x"}},
        {"locked": (77,)},
    ],
)
def test_one_step_that_fails_does_not_stop_the_others(charge, trouble):
    if "locked" in trouble:
        os.dup2(charge["locked"][0], 77)
        trouble = {"partial": charge["partial"].parent / "x" / "y"}
    orphaned({**charge, **trouble})
    assert charge["partial"].exists() == ("partial" in trouble)
    assert frozen(charge) == ("freezer" in trouble)


def test_a_container_that_cannot_be_thawed_keeps_its_half_archive(stopping):
    """The only evidence that it is to go on, where its dump was about to name the archive."""
    (stopping["freezer"] / "cgroup.freeze").unlink()
    (stopping["freezer"] / "cgroup.freeze").mkdir()
    assert "crishim guardian: thaw: " in orphaned(stopping)
    assert stopping["partial"].exists()


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


@pytest.fixture
def criu_like(tmp_path):
    """A process that calls itself CRIU and names a file below a dump's directory."""
    words = ["criu", "-c", "read x", str(tmp_path / "dump" / "x")]
    process = subprocess.Popen(words, executable="/bin/sh", stdin=subprocess.PIPE)
    while not Path(f"/proc/{process.pid}/cmdline").read_bytes().startswith(b"criu"):
        pass
    yield process.pid
    process.communicate()


def test_what_a_container_calls_its_processes_is_no_tool(tmp_path, criu_like, monkeypatch):
    """It lives in process ids of its own; taken for CRIU it would be waited for, for ever."""
    assert guardian.is_tool(criu_like, tmp_path / "dump")
    assert not guardian.is_tool(criu_like, tmp_path / "du")
    stat = os.stat

    def elsewhere(path, *args, **options):
        other = f"/proc/{criu_like}/ns/pid" == path
        return stat("/proc/self/ns/net" if other else path, *args, **options)

    monkeypatch.setattr(os, "stat", elsewhere)
    assert not guardian.is_tool(criu_like, tmp_path / "dump")


@pytest.mark.parametrize(
    ("words", "is_one"),
    [
        (["runc-1.3.6", "--root", "/x", "checkpoint", "--work-path", "dump"], True),
        (["runc.real", "restore", "--detach", "--work-path", "dump/work", "c1"], True),
        (["less", "dump/dump.log"], False),
        (["runc-1.3.6", "--root", "/x", "checkpoint", "--work-path", "other"], False),
    ],
)
def test_a_runc_is_known_whatever_its_name_is(tmp_path, words, is_one):
    """containerd's BinaryName says it: not found, its CRIU was in the container that was thawed."""
    name, *rest = [str(tmp_path / w) if w.startswith(("dump", "other")) else w for w in words]
    tool = subprocess.Popen(
        [name, "-c", "read x", *rest], executable="/bin/sh", stdin=subprocess.PIPE
    )
    try:
        while not Path(f"/proc/{tool.pid}/cmdline").read_bytes().startswith(name.encode()):
            pass
        assert guardian.is_tool(tool.pid, tmp_path / "dump") == is_one
        assert (guardian.tool_of(tmp_path / "dump") == tool.pid) == is_one
    finally:
        tool.communicate()


def test_the_option_that_runc_is_known_by_is_one_that_it_gets(tmp_path):
    checkpoint = runc.CheckpointOptions(
        images=tmp_path, work=tmp_path, criu_config=tmp_path, kept_logs=tmp_path,
        leave_running=True, cgroups_mode="ignore",
    )  # fmt: skip
    facts = runc.RuncFacts(version="1.3.6", link_remap=True, cgroups_mode="ignore")
    plan = SimpleNamespace(tcp=TcpMode.ESTABLISHED)
    restore = runc_options(tmp_path, tmp_path, plan, facts)
    for words in (checkpoint.argv("c1"), restore):
        assert words[words.index(atwork._OPTION.decode()) + 1].startswith(str(tmp_path))


def test_a_criu_that_nobody_can_look_for_is_waited_for(tmp_path, monkeypatch):
    """One error and the guardian was gone: nobody would have thawed the container."""
    answers = iter([OSError(24, "too many open files"), 7, 0])

    def tool_of(_):
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(guardian, "tool_of", tool_of)
    monkeypatch.setattr(guardian, "is_tool", lambda *_: False)
    guardian._end_dump(tmp_path)
    assert next(answers, None) is None


def test_it_knows_the_note_of_a_half_archive_by_the_name_that_the_dump_gives_it():
    """It imports nothing of ours, so the name is written twice."""
    assert guardian._HALF == dumpnotes.HALF
