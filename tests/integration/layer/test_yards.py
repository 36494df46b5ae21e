"""The mounts that a killed CRIU leaves are found and removed, and no others."""

import shutil
import subprocess
from pathlib import Path

import pytest

from crishim.kernel import mounts
from crishim.tools import criu


@pytest.fixture
def yard(tmp_path):
    made = [tmp_path / ".criu.mntns.a1B2c3", tmp_path / ".criu.other"]
    for path in made:
        path.mkdir()
        mounts.mount("none", path, fs_type="tmpfs")
    yield made[0]
    for path in made:
        if mounts.mount_at(mounts.read_mounts(), str(path)):
            mounts.umount(path)


def test_a_yard_is_removed_and_nothing_else(yard):
    (yard / "root").mkdir()
    assert criu.sweep_yards(yard.parent) == [str(yard)]
    assert not yard.exists()
    assert mounts.mount_at(mounts.read_mounts(), str(yard.parent / ".criu.other"))
    assert criu.sweep_yards(yard.parent) == []


def test_a_yard_stays_while_some_criu_runs(yard, tmp_path):
    program = Path(shutil.copy("/usr/bin/sleep", tmp_path / "criu"))
    with subprocess.Popen([program, "60"]) as running:
        try:
            assert criu.sweep_yards(yard.parent) == []
        finally:
            running.kill()
    assert criu.sweep_yards(yard.parent) == [str(yard)]
