import signal
import subprocess

import pytest

from crishim.errors import DeadlineExceeded, NotFound
from crishim.kernel import cgroup


def test_a_v1_freezer(tmp_path):
    state = tmp_path / "freezer.state"
    state.write_text("THAWED")
    cgroup.freeze(tmp_path, timeout_s=1)
    assert state.read_text() == "FROZEN"
    cgroup.thaw(tmp_path)
    assert state.read_text() == "THAWED"


def test_a_v2_freezer_waits_for_the_event(tmp_path):
    (tmp_path / "cgroup.freeze").write_text("0")
    (tmp_path / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    with pytest.raises(DeadlineExceeded):
        cgroup.freeze(tmp_path, timeout_s=0)
    (tmp_path / "cgroup.events").write_text("populated 1\nfrozen 1\n")
    cgroup.freeze(tmp_path, timeout_s=0)
    assert (tmp_path / "cgroup.freeze").read_text() == "1"


def test_a_v1_cgroup_is_ended_process_by_process(tmp_path):
    (tmp_path / "freezer.state").write_text("FROZEN")
    (tmp_path / "below").mkdir()
    children = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    for directory, child in zip((tmp_path, tmp_path / "below"), children, strict=True):
        (directory / "cgroup.procs").write_text(f"{child.pid}\n")
    cgroup.kill(tmp_path)
    assert [child.wait(10) for child in children] == [-signal.SIGKILL] * 2


def test_a_v2_cgroup_is_ended_by_the_kernel(tmp_path):
    (tmp_path / "cgroup.freeze").write_text("1")
    (tmp_path / "cgroup.kill").write_text("")
    cgroup.kill(tmp_path)
    assert (tmp_path / "cgroup.kill").read_text() == "1"


@pytest.mark.parametrize(
    ("name", "text", "is_thawed"),
    [
        ("freezer.state", "THAWED\n", True),
        ("freezer.state", "FREEZING\n", False),
        ("cgroup.freeze", "0\n", True),
        ("cgroup.freeze", "1\n", False),
    ],
)
def test_what_was_ordered_last(tmp_path, name, text, is_thawed):
    (tmp_path / name).write_text(text)
    assert cgroup.is_thawed(tmp_path) is is_thawed


def test_a_cgroup_that_does_not_tell_is_not_thawed(tmp_path):
    (tmp_path / "cgroup.freeze").mkdir()
    with pytest.raises(IsADirectoryError):
        cgroup.is_thawed(tmp_path)


def test_a_cgroup_that_is_gone(tmp_path):
    assert cgroup.is_thawed(tmp_path / "gone")
    with pytest.raises(NotFound):
        cgroup.freeze(tmp_path / "gone", timeout_s=1)
    cgroup.kill(tmp_path / "gone")
    cgroup.thaw(tmp_path / "gone")
