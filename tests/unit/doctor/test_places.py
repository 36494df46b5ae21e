"""What the doctor says of sockets, of who comes to them, and of our directories."""

import socket
from pathlib import Path

import pytest

from crishim.doctor import sockets, storage
from crishim.doctor.finding import Level
from crishim.paths import Paths


@pytest.fixture
def ours(tmp_path: Path):
    """A socket with the right modes."""
    path = tmp_path / "run" / "crishim.sock"
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        path.chmod(0o600)
        yield path


def test_socket_is_missing(tmp_path: Path) -> None:
    found = sockets.own(tmp_path / "none.sock")
    assert found.level is Level.ERROR
    assert found.cure == "start crishim: systemctl start crishim"


def test_something_else_lies_at_the_socket(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert sockets.own(tmp_path / "file").level is Level.ERROR


def test_socket_that_others_reach(ours: Path) -> None:
    assert sockets.own(ours).level is Level.OK
    ours.chmod(0o666)
    found = sockets.own(ours)
    assert found.level is Level.ERROR
    assert f"{ours} 0666" in found.summary
    ours.chmod(0o600)
    ours.parent.chmod(0o755)
    assert f"{ours.parent} 0755" in sockets.own(ours).summary


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("runtime-endpoint: unix:///run/crishim/crishim.sock\ntimeout: 30\n", Level.OK),
        ('runtime-endpoint: "unix:///run/containerd/containerd.sock"\n', Level.WARNING),
        ("timeout: 10\n", Level.OK),
    ],
)
def test_crictl(tmp_path: Path, text: str, level: Level) -> None:
    file = tmp_path / "crictl.yaml"
    assert sockets.crictl(file, Path("/run/crishim/crishim.sock")).level is Level.OK
    file.write_text(text)
    found = sockets.crictl(file, Path("/run/crishim/crishim.sock"))
    assert found.level is level


def kubelet(proc: Path, *words: str, config: str = "") -> None:
    """Put a kubelet with a root of its own into a fake procfs."""
    process = proc / "4711"
    (process / "root/etc").mkdir(parents=True)
    (process / "root/etc/kubelet.yaml").write_text(config)
    (process / "cmdline").write_text("\0".join(("/usr/bin/kubelet", *words, "")))


OURS = "unix:///run/crishim/crishim.sock"
CONFIG = "--config=/etc/kubelet.yaml"


@pytest.mark.parametrize(
    ("words", "config", "level"),
    [
        ((f"--container-runtime-endpoint={OURS}",), "", Level.OK),
        (("--container-runtime-endpoint", OURS, "--v=2"), "", Level.OK),
        ((CONFIG,), f"kind: x\ncontainerRuntimeEndpoint: {OURS}\n", Level.OK),
        ((CONFIG,), f'{{"containerRuntimeEndpoint": "{OURS}"}}', Level.OK),
        (("--config", "/etc/kubelet.yaml"), "kind: x\n", Level.WARNING),
        ((CONFIG,), "containerRuntimeEndpoint: 'unix:///run/c.sock'", Level.WARNING),
        ((), "", Level.WARNING),
    ],
)
def test_kubelet(tmp_path: Path, words: tuple[str, ...], config: str, level: Level) -> None:
    ours = Path("/run/crishim/crishim.sock")
    (tmp_path / "1").mkdir()
    assert sockets.kubelet(tmp_path, ours).summary == "no kubelet runs here"
    kubelet(tmp_path, *words, config=config)
    assert sockets.kubelet(tmp_path, ours).level is level


@pytest.mark.parametrize(
    ("free_bytes", "level"), [(1 << 20, Level.ERROR), (1 << 30, Level.WARNING), (1 << 40, Level.OK)]
)
def test_space(tmp_path: Path, free_bytes: int, level: Level) -> None:
    assert storage.space(Paths(state=tmp_path), free_bytes=free_bytes).level is level


def test_space_is_looked_for_where_the_store_will_be(tmp_path: Path) -> None:
    assert storage.space(Paths(state=tmp_path / "not" / "yet")).summary.endswith(str(tmp_path))


def test_store_that_others_may_write(tmp_path: Path) -> None:
    paths = Paths(state=tmp_path)
    paths.store.mkdir(mode=0o700)
    assert storage.safety(paths).level is Level.OK
    paths.store.chmod(0o770)
    found = storage.safety(paths)
    assert found.level is Level.ERROR
    assert f"{paths.store} 0770" in found.summary


def test_wrappers(tmp_path: Path) -> None:
    paths = Paths(state=tmp_path)
    directory = paths.restores / ("c" * 64)
    directory.mkdir(parents=True)
    wrapper, runc = directory / "crishim-runc", directory / "runc"
    wrapper.write_text("#!/bin/sh\n")
    wrapper.chmod(0o755)
    runc.write_text("runc\n")
    assert storage.wrappers(paths).level is Level.OK

    runc.write_text(f"{tmp_path}/gone\n")
    assert f"its runc {tmp_path}/gone is gone" in storage.wrappers(paths).summary
    runc.unlink()
    assert "the path of its runc is missing" in storage.wrappers(paths).summary
    runc.write_text("runc\n")
    wrapper.unlink()
    found = storage.wrappers(paths)
    assert found.level is Level.ERROR
    assert "ccccccccccccc (crishim-runc is missing" in found.summary
