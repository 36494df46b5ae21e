"""The conversation with CRIU's script, with the real script and no CRIU."""

import asyncio
import dataclasses
import errno
import os
import struct

import pytest

from crishim.archive import carried as carrieds
from crishim.archive.carried import Carried, Socket, Thread
from crishim.restore import putback


class Archive:
    """An archive of one entry."""

    def __init__(self, data):
        self.members = {} if data is None else {carrieds.MEMBER: len(data)}
        self._data = data

    def read(self, name):
        assert name == carrieds.MEMBER
        return self._data


@pytest.fixture
def directory(tmp_path):
    """A restore's directory with something to put back into a process that is gone."""
    data = carrieds.encode(Carried(threads=(Thread(pid=1, tid=7, timer_slack_ns=5),)))
    options = putback.arrange(tmp_path, Archive(data))
    assert options == f"action-script {tmp_path}/pre-resume\n"
    return tmp_path


async def script(directory, action):
    """Run what CRIU would run."""
    env = {"PATH": os.environ["PATH"], "CRTOOLS_SCRIPT_ACTION": action}
    process = await asyncio.create_subprocess_exec(
        str(directory / "pre-resume"), env={**env, "CRTOOLS_INIT_PID": "4194304"}
    )
    return await process.wait()


async def test_it_waits_until_all_is_done_and_what_failed_is_said(directory):
    async with putback.PutBack(directory) as back:
        assert await script(directory, "post-restore") == 0
        assert await script(directory, "pre-resume") == 0
    assert [loss.what for loss in back.losses] == [
        "thread 7 of process 1 of the container is not to be found"
    ]
    assert not (directory / "late").exists()


async def test_a_criu_that_never_asks_is_a_loss(directory):
    async with putback.PutBack(directory) as back:
        pass
    assert ["has not asked" in loss.what for loss in back.losses] == [True]


@pytest.mark.parametrize(
    "error", [struct.error("'H' format"), OverflowError("too large"), KeyError()]
)
async def test_an_error_that_nobody_expected_is_a_loss_too(directory, monkeypatch, error):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(putback, "put_back", fail)
    async with putback.PutBack(directory) as back:
        assert await script(directory, "pre-resume") == 0
    [loss] = back.losses
    assert loss.what.endswith(f"went on: {str(error) or 'KeyError'}")


def test_a_socket_that_is_not_there_says_why():
    """And the reason is no cure."""
    gone = Socket(pid=7, fd=3, family=2, kind=2, protocol=17)
    [process] = putback._sockets(Carried(sockets=(gone,)), {})
    assert "(the process is not there)" in process.what and not process.cure
    own = {7: os.getpid()}
    [closed] = putback._sockets(Carried(sockets=(dataclasses.replace(gone, fd=10**6),)), own)
    assert "(Bad file descriptor)" in closed.what and not closed.cure


async def test_a_restore_that_failed_has_lost_nothing(directory):
    back = putback.PutBack(directory)
    with pytest.raises(ValueError, match="failed"):
        async with back:
            raise ValueError("failed")
    assert back.losses == []


async def test_without_a_daemon_the_restore_goes_on_and_says_so(directory):
    text = (directory / "pre-resume").read_text()
    assert "timeout 10 " in text
    (directory / "pre-resume").write_text(text.replace("timeout 10 ", "timeout 0.1 "))
    os.mkfifo(directory / "ask")
    assert await script(directory, "pre-resume") == 0
    assert len(putback.late(directory)) == 1
    assert putback.late(directory) == []


async def test_nothing_to_put_back(tmp_path):
    assert putback.arrange(tmp_path, Archive(None)) == ""
    async with putback.PutBack(tmp_path) as back:
        assert os.listdir(tmp_path) == []
    assert back.losses == []


async def test_a_disk_that_refuses_fails_no_restore_that_was_over(directory, monkeypatch):
    def refuse(path, *_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    with monkeypatch.context() as patched:
        async with putback.PutBack(directory) as back:
            patched.setattr(os, "lstat", refuse)
            patched.setattr(os, "unlink", refuse)
    assert "nobody knows whether CRIU was answered" in back.losses[-1].what
