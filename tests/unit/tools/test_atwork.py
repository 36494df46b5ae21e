"""Who works in a directory: the daemon and the guardian of a dump ask the same."""

import contextlib
import os
import subprocess
from pathlib import Path

import pytest

from crishim.tools import atwork

CASES = [
    (["runc", "--root", "/x", "checkpoint", "--work-path", "dump"], True),
    (["/usr/bin/criu", "-c", "swrk", "dump/criu.conf"], True),
    (["/usr/bin/python3", "runc", "dump"], True),
    (["runc-1.3.6", "--root", "/x", "checkpoint", "--work-path", "dump"], True),
    (["runc.real", "restore", "--detach", "--work-path", "dump/work", "c1"], True),
    (["runc-1.3.6", "--root", "/x", "checkpoint", "--work-path", "other"], False),
    (["runc", "kill", "dump-of-another"], False),
    (["less", "dump/dump.log"], False),
    (["cat", "-", "criu", "dump"], False),
    ([], False),
]


class Processes:
    """A /proc whose processes the test has made up."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.unreadable: set[int] = set()
        self.elsewhere: set[int] = set()
        self.ended: set[int] = set()

    def add(self, pid: int, words: list[str]) -> None:
        (self.top / str(pid)).mkdir()
        text = b"".join(os.fsencode(word) + b"\0" for word in words)
        (self.top / str(pid) / "cmdline").write_bytes(text)

    def install(self, monkeypatch) -> None:
        stat, listdir, read_bytes = os.stat, os.listdir, Path.read_bytes

        def pid_of(path) -> int:
            with contextlib.suppress(ValueError, IndexError):
                return int(Path(path).parts[2])
            return 0

        def read(path: Path) -> bytes:
            pid = pid_of(path)
            if pid in self.unreadable:
                raise OSError(24, "Too many open files")
            if path.is_relative_to("/proc") and pid:
                return read_bytes(self.top / path.relative_to("/proc"))
            return read_bytes(path)

        def namespace(path, *args, **options):
            pid = pid_of(path)
            if pid in self.ended:
                raise ProcessLookupError(3, "No such process")
            if pid:
                return stat("/proc/self/ns/net" if pid in self.elsewhere else "/proc/self/ns/pid")
            return stat(path, *args, **options)

        def names(path="."):
            return listdir(self.top) if path == "/proc" else listdir(path)

        monkeypatch.setattr(Path, "read_bytes", read)
        monkeypatch.setattr(os, "stat", namespace)
        monkeypatch.setattr(os, "listdir", names)


@pytest.fixture
def processes(tmp_path, monkeypatch):
    (tmp_path / "proc").mkdir()
    found = Processes(tmp_path / "proc")
    found.install(monkeypatch)
    return found


def placed(words: list[str], top: Path) -> list[str]:
    return [str(top / word) if word.startswith(("dump", "other")) else word for word in words]


@pytest.mark.parametrize(("words", "is_one"), CASES)
def test_a_tool_is_known_by_its_words(processes, tmp_path, words, is_one):
    processes.add(7, placed(words, tmp_path))
    assert atwork.is_tool(7, tmp_path / "dump") is is_one
    assert atwork.tool_of(tmp_path / "dump") == (7 if is_one else 0)


def test_only_what_runs_beside_us_is_one(processes, tmp_path):
    """A container may call its processes what it likes; and one may end while it is looked at."""
    for pid in (7, 8):
        processes.add(pid, placed(CASES[0][0], tmp_path))
    processes.elsewhere, processes.ended = {7}, {8}
    assert not atwork.is_tool(7, tmp_path / "dump") and not atwork.is_tool(8, tmp_path / "dump")
    assert not atwork.is_tool(9, tmp_path / "dump")
    assert atwork.tool_of(tmp_path / "dump") == 0


def test_one_that_cannot_be_looked_at_is_not_taken_for_none(processes, tmp_path):
    processes.add(7, ["less"])
    processes.unreadable = {7}
    for look in (lambda: atwork.is_tool(7, tmp_path), lambda: atwork.tool_of(tmp_path)):
        with pytest.raises(OSError, match="Too many open files"):
            look()


def test_a_process_does_not_find_itself(processes, tmp_path):
    processes.add(os.getpid(), placed(CASES[0][0], tmp_path))
    assert atwork.tool_of(tmp_path / "dump") == 0


def test_a_real_process_with_the_name_of_a_tool(tmp_path):
    words = ["criu", "-c", "read x", str(tmp_path / "x")]
    tool = subprocess.Popen(words, executable="/bin/sh", stdin=subprocess.PIPE)
    try:
        while not Path(f"/proc/{tool.pid}/cmdline").read_bytes().startswith(b"criu"):
            pass
        assert atwork.tool_of(tmp_path) == tool.pid
    finally:
        tool.communicate()
