"""The guardian as a process of its own: it acts when its pipe ends without the word."""

import asyncio
import json
import subprocess
import sys

import pytest

from crishim.checkpoint import guardian
from crishim.checkpoint.guardian import Guardian
from crishim.kernel import process

RUNC = """#!/bin/sh
echo "$@" >> "$0.called"
"""


@pytest.fixture
def charge(tmp_path):
    runc = tmp_path / "runc"
    runc.write_text(RUNC)
    runc.chmod(0o755)
    (tmp_path / "half.partial").touch()
    return {
        "dump": tmp_path / "dump",
        "partial": tmp_path / "half.partial",
        "runc": [str(runc), "--root", "/r"],
        "container": "c1",
        "netns": "",
        "table": "",
    }


def calls(charge) -> list[str]:
    try:
        with open(f"{charge['runc'][0]}.called", encoding="ascii") as file:
            return file.read().splitlines()
    except FileNotFoundError:
        return []


def orphaned(charge) -> None:
    """Run a guardian whose daemon dies right after it has given the charge."""
    line = json.dumps(
        {
            name: value if isinstance(value, (str, list)) else str(value)
            for name, value in charge.items()
        }
    )
    argv = [sys.executable, "-I", "-S", guardian.__file__]
    subprocess.run(argv, input=line.encode() + b"\n", check=True, timeout=60)


async def test_a_discharged_guardian_touches_nothing(charge):
    watching = Guardian(**charge)
    await watching.start(process.environment())
    await watching.discharge()
    await watching.discharge()
    assert calls(charge) == []
    assert charge["partial"].exists()


async def test_discharge_without_start(charge):
    await Guardian(**charge).discharge()
    assert calls(charge) == []


def test_an_orphan_thaws_and_removes_the_half_archive(charge):
    orphaned(charge)
    assert calls(charge) == ["--root /r resume c1"]
    assert not charge["partial"].exists()


def test_an_orphan_thaws_nothing_once_the_archive_has_appeared(charge):
    charge["partial"].unlink()
    orphaned(charge)
    assert calls(charge) == []


def test_a_failing_runc_does_not_keep_the_half_archive(charge):
    charge["runc"] = ["false"]
    orphaned(charge)
    assert not charge["partial"].exists()


async def test_an_orphan_waits_for_the_dump_and_unblocks_it(charge):
    images = charge["dump"] / "images"
    images.mkdir(parents=True)
    page = images / "pages-1.img"
    subprocess.run(["mkfifo", str(page)], check=True)
    # Like CRIU it blocks in open() because nobody reads, and is known by the path among its words.
    script = 'exec 3> "$0"; rm "$0"'
    dump = subprocess.Popen(["sh", "-c", script, str(page)])
    try:
        await asyncio.to_thread(orphaned, charge)
        assert dump.wait(timeout=20) == 0
    finally:
        dump.kill()
        dump.wait()
    assert calls(charge) == ["--root /r resume c1"]
