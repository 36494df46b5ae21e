"""What the doctor says of kernel, privileges, containerd, runc and pods."""

from pathlib import Path

import pytest

from crishim.containerd.runtime import Handler, Runtime
from crishim.doctor import kernel, pods, privileges, runtime
from crishim.doctor.finding import Level
from crishim.errors import ToolFailed

ALL = (1 << 41) - 1


async def test_kernel_without_egress_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise ToolFailed("nft", 1, details="Operation not supported")

    monkeypatch.setattr(kernel, "_try_hooks", refuse)
    found = await kernel.hold()
    assert found.level is Level.ERROR
    assert "Operation not supported" in found.summary
    assert "5.16" in found.cure


async def test_no_right_to_make_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(kernel, "_unshare_network", refuse)
    found = await kernel.hold()
    assert found.level is Level.ERROR
    assert "CAP_SYS_ADMIN" in found.cure


def test_kernel_without_tcp_repair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_TCP_REPAIR", 250)  # an option that no kernel has
    found = kernel.tcp_repair()
    assert found.level is Level.ERROR
    assert "CONFIG_CHECKPOINT_RESTORE" in found.cure


def test_kernel_that_lists_no_sockets_of_a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_DIAG", (*kernel._DIAG[:1], (45, 0, "missing_diag")))
    found = kernel.sock_diag()
    assert found.level is Level.ERROR
    assert "missing_diag" in found.summary
    assert found.cure.startswith("modprobe missing_diag")


@pytest.mark.parametrize(
    ("file_systems", "release", "mkfs", "level", "word"),
    [
        ("nodev\ttmpfs\n\terofs\n", "6.12.1-amd64", True, Level.OK, "mounted"),
        ("\terofs\n", "6.12.1-amd64", False, Level.WARNING, "unpacked"),
        ("\terofs\n", "6.1.0-40", False, Level.OK, "unpacked"),
        ("\text4\n", "7.0.0", True, Level.OK, "unpacked"),
    ],
)
def test_erofs(file_systems: str, release: str, mkfs: bool, level: Level, word: str) -> None:
    found = kernel.erofs(file_systems, release=release, mkfs=mkfs)
    assert found.level is level
    assert word in found.summary


@pytest.mark.parametrize(
    ("mask", "level", "word"),
    [
        (ALL, Level.OK, "all"),
        (ALL & ~(1 << 24), Level.WARNING, "CAP_SYS_RESOURCE"),
        (ALL & ~(1 << 12) & ~(1 << 40), Level.ERROR, "CAP_NET_ADMIN, CAP_CHECKPOINT_RESTORE"),
    ],
)
def test_capabilities(mask: int, level: Level, word: str) -> None:
    found = privileges.capabilities("crishim", f"Name:\tx\nCapEff:\t{mask:016x}\nCapBnd:\t0\n")
    assert found.level is level
    assert word in found.summary


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ("1.6.20", Level.WARNING),
        ("1.7.24", Level.OK),
        ("2.4.0", Level.OK),
        ("2.5.0-beta.1", Level.WARNING),
        ("unknown", Level.WARNING),
    ],
)
def test_containerd_versions(version: str, level: Level) -> None:
    assert runtime.version(version).level is level


def handler(**changes: object) -> Handler:
    table = {
        "name": "runc",
        "runtime": "io.containerd.runc.v2",
        "binary": "",
        "snapshotter": "",
        "default": True,
    }
    return Handler(**{**table, **changes})


@pytest.mark.parametrize(
    ("snapshotter", "of_handler", "level"),
    [
        ("overlayfs", "", Level.OK),
        ("native", "", Level.ERROR),
        ("overlayfs", "nydus", Level.WARNING),
    ],
)
def test_snapshotters(snapshotter: str, of_handler: str, level: Level) -> None:
    found = Runtime(
        version="2.4.0",
        pid=1,
        snapshotter=snapshotter,
        handlers=(handler(snapshotter=of_handler),),
        networks={},
    )
    assert runtime.snapshotter(found).level is level


def runc(tmp_path: Path, says: str) -> str:
    path = tmp_path / "runc"
    path.write_text(f'#!/bin/sh\necho "{says}"\n')
    path.chmod(0o755)
    return str(path)


async def test_handler_of_another_runtime() -> None:
    kata = handler(name="kata", runtime="io.containerd.kata.v2")
    assert [f.level for f in await runtime.handlers([kata])] == [Level.ERROR]
    (found,) = await runtime.handlers([handler(name="kata", runtime="x", default=False)])
    assert found.level is Level.WARNING
    assert found.id == "runc.kata"


@pytest.mark.parametrize(
    ("says", "level", "word"),
    [
        ("runc version 1.3.6", Level.OK, "1.3.6"),
        ("runc version 1.0.0-rc93", Level.WARNING, "older"),
        ("crun version 1.21", Level.ERROR, "is not runc"),
    ],
)
async def test_runc_versions(tmp_path: Path, says: str, level: Level, word: str) -> None:
    (found,) = await runtime.handlers([handler(binary=runc(tmp_path, says))])
    assert found.level is level
    assert word in found.summary


async def test_runc_is_missing(tmp_path: Path) -> None:
    (found,) = await runtime.handlers([handler(binary=f"{tmp_path}/runc")])
    assert found.level is Level.ERROR
    assert "not installed" in found.summary


def test_pods_with_mptcp_are_named_and_counted() -> None:
    assert pods.judge([]).level is Level.OK
    found = pods.judge([f"default/p{number}" for number in range(7)])
    assert found.level is Level.WARNING
    assert "default/p4 and 2 more" in found.summary
