"""The socket: who may reach it, what is replaced, what is refused, what stays."""

import os
import socket
import stat
from pathlib import Path

import grpc
import pytest

from crishim.errors import Busy, Precondition
from crishim.server.listen import bind, locked, make_directory


@pytest.fixture
async def server():
    server = grpc.aio.server()
    yield server
    await server.stop(None)


def listening(path: Path) -> socket.socket:
    other = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    other.bind(str(path))
    other.listen()
    return other


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        return client.connect_ex(str(path)) == 0


async def test_only_the_owner_reaches_the_socket(server, tmp_path: Path) -> None:
    path = tmp_path / "run" / "crishim.sock"
    old_mask = os.umask(0)
    try:
        make_directory(path.parent)
        bind(server, path)
    finally:
        os.umask(old_mask)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert connects(path)
    assert sorted(file.name for file in path.parent.iterdir()) == ["crishim.sock"]


async def test_stale_socket_is_replaced(server, tmp_path: Path) -> None:
    path = tmp_path / "crishim.sock"
    listening(path).close()
    assert path.is_socket() and not connects(path)
    bind(server, path)
    assert connects(path)


async def test_somebody_elses_socket_is_left_alone(server, tmp_path: Path) -> None:
    path = tmp_path / "containerd.sock"
    with listening(path):
        before = path.stat().st_ino
        with pytest.raises(Busy, match="another program listens at"):
            bind(server, path)
        assert path.stat().st_ino == before


async def test_regular_file_is_refused(server, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("dear diary")
    with pytest.raises(Precondition, match="not a socket"):
        bind(server, path)
    assert path.read_text() == "dear diary"


async def test_symbolic_link_is_refused(server, tmp_path: Path) -> None:
    listening(tmp_path / "target").close()
    path = tmp_path / "crishim.sock"
    path.symlink_to("target")
    with pytest.raises(Precondition, match="not a socket"):
        bind(server, path)
    assert path.is_symlink() and (tmp_path / "target").is_socket()


async def test_path_too_long_is_refused_before_anything_is_made(server, tmp_path: Path) -> None:
    path = tmp_path / ("x" * 100)
    with pytest.raises(Precondition, match="too long"):
        bind(server, path)
    assert list(tmp_path.iterdir()) == []


async def test_own_socket_is_removed(server, tmp_path: Path) -> None:
    path = tmp_path / "crishim.sock"
    listener = bind(server, path)
    listener.remove()
    assert not path.exists()
    listener.remove()


async def test_successors_socket_survives_our_stop(tmp_path: Path) -> None:
    path = tmp_path / "crishim.sock"
    server = grpc.aio.server()
    listener = bind(server, path)
    await server.start()
    path.unlink()
    with listening(path):
        await server.stop(None)
        listener.remove()
        assert connects(path)


def test_second_holder_of_the_lock_learns_of_the_first(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    refusal = pytest.raises(Busy, match=rf"another crishim is running here \(pid {os.getpid()},")
    with locked(file), refusal, locked(file):
        pass
    with locked(file):
        pass
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_lock_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to("elsewhere")
    with pytest.raises(Precondition, match="cannot open the lock"), locked(tmp_path / "lock"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_children_do_not_inherit_the_lock(tmp_path: Path) -> None:
    with locked(tmp_path / "lock"):
        inheritable = [int(name) for name in os.listdir("/proc/self/fd") if name.isdecimal()]
        held = [
            number
            for number in inheritable
            if os.path.exists(f"/proc/self/fd/{number}")
            and os.readlink(f"/proc/self/fd/{number}") == str(tmp_path / "lock")
        ]
        assert held and not any(os.get_inheritable(number) for number in held)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_directory_that_others_can_change_is_refused(tmp_path: Path, mode: int) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(Precondition, match="other users"):
        make_directory(directory)


def test_directory_that_is_a_link_or_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(Precondition):
            make_directory(tmp_path / name)
