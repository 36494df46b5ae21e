"""What the doctor says of CRIU: each test breaks one thing."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from crishim.doctor import criu
from crishim.doctor.finding import Level
from crishim.kernel import process
from crishim.kernel.mounts import parse_mountinfo


def program(directory: Path, script: str) -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / "criu"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory that is the whole PATH of tools."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setattr(process, "PATH", str(directory))
    return directory


@pytest.mark.parametrize(
    ("version", "level"),
    [("3.15", Level.ERROR), ("3.17.1", Level.WARNING), ("4.1.1", Level.WARNING), ("4.2", Level.OK)],
)
async def test_versions(
    tools: Path, monkeypatch: pytest.MonkeyPatch, version: str, level: Level
) -> None:
    program(tools, f"echo Version: {version}")
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release="6.12.1"))
    found = await criu.version()
    assert found.level is level
    assert bool(found.cure) is (level is not Level.OK)


@pytest.mark.parametrize(
    ("version", "release", "level"),
    [
        ("4.2", "6.18.44-fc", Level.OK),
        ("4.2", "7.0.0", Level.ERROR),
        ("4.2", "7.1.3-arch1", Level.ERROR),
        ("4.2.1", "7.1.3", Level.OK),
        ("4.3", "8.0", Level.OK),
    ],
)
def test_kernels_that_break_a_version(version: str, release: str, level: Level) -> None:
    found = criu.judge(version, release=release)
    assert found.level is level
    assert ("4.2.1 or newer" in found.cure) is (level is Level.ERROR)


async def test_no_criu(tools: Path) -> None:
    found = [await criu.version(), await criu.check()]
    assert [f.level for f in found] == [Level.ERROR, Level.ERROR]
    assert found[0].summary == "no criu is on the PATH"
    assert "install CRIU" in found[0].cure


async def test_check_fails_and_its_errors_are_named(tools: Path) -> None:
    program(tools, "echo 'Error (criu/cr-check.c:1): timerfd is not supported' >&2; exit 1")
    found = await criu.check()
    assert found.level is Level.ERROR
    assert found.summary == "`criu check` fails: timerfd is not supported"


def test_containerd_finds_another_criu(tools: Path, tmp_path: Path) -> None:
    program(tools, "")
    assert criu.same_program(str(tools)).level is Level.OK
    other = program(tmp_path / "other", "")
    found = criu.same_program(f"{tmp_path}/none:{other.parent}")
    assert found.level is Level.ERROR
    assert str(other) in found.summary
    assert criu.same_program(f"{tmp_path}/none").level is Level.ERROR


def test_a_link_to_the_same_criu_is_the_same(tools: Path, tmp_path: Path) -> None:
    (tmp_path / "sbin").mkdir()
    (tmp_path / "sbin/criu").symlink_to(program(tools, ""))
    assert criu.same_program(f"{tmp_path}/sbin").level is Level.OK


@pytest.mark.parametrize(
    ("text", "wins", "level", "named"),
    [
        ("# only a comment\n\n", True, Level.OK, "sets nothing"),
        ("tcp-close\nverbosity 4\n", True, Level.ERROR, "tcp-close"),
        ("--network-lock iptables\n", True, Level.ERROR, "network-lock"),
        ("verbosity 4 # loud\n", True, Level.WARNING, "verbosity"),
        ("tcp-close\n", False, Level.WARNING, "tcp-close"),
    ],
)
def test_override_files(tmp_path: Path, text: str, wins: bool, level: Level, named: str) -> None:
    file = tmp_path / "runc.conf"
    assert criu.override_file("x", file, wins=wins).level is Level.OK
    file.write_text(text)
    found = criu.override_file("x", file, wins=wins)
    assert found.level is level
    assert named in found.summary


def test_annotation_names_the_container() -> None:
    plain = {"0123456789abcdef": {"a": "b"}, "1" * 64: {criu.ANNOTATION: ""}}
    assert criu.container_annotations(plain).level is Level.OK
    found = criu.container_annotations({**plain, "f" * 64: {criu.ANNOTATION: "/etc/mine.conf"}})
    assert found.level is Level.ERROR
    assert "fffffffffffff (/etc/mine.conf)" in found.summary


def table(fs_type: str, mount_point: Path) -> list:
    return parse_mountinfo(
        f"1 0 0:1 / / rw - ext4 /dev/x rw\n2 1 0:2 / {mount_point} rw - {fs_type} x rw\n".encode()
    )


def test_cache_wants_a_tmpfs(tmp_path: Path) -> None:
    assert criu.cache(tmp_path / "run", table("tmpfs", tmp_path)).level is Level.OK
    found = criu.cache(tmp_path / "run", table("tmpfs", tmp_path / "elsewhere"))
    assert found.level is Level.WARNING
    assert found.cure == f"mount a tmpfs at {tmp_path}/run"


def test_stale_cache_is_told_from_one_being_written(tmp_path: Path) -> None:
    mounts = table("tmpfs", tmp_path)
    stale = tmp_path / "criu.kdat.tmp"
    stale.touch()
    written_s = os.stat(stale).st_mtime
    assert criu.cache(tmp_path, mounts, now_s=written_s + 1).level is Level.OK
    found = criu.cache(tmp_path, mounts, now_s=written_s + 3600)
    assert found.level is Level.WARNING
    assert found.cure == f"rm {stale}"
