"""Archives that a stopped container or a waiting restore needs, by what they are."""

import dataclasses

import pytest

from crishim.checkpoint import pending
from crishim.checkpoint.held import Held
from crishim.checkpoint.needed import Needed
from crishim.errors import Busy, Precondition
from crishim.ids import sandbox_id
from crishim.paths import Paths
from tests.unit.checkpoint.samples import held_record, plan


@pytest.fixture
def paths(tmp_path):
    return Paths(state=tmp_path / "state", run=tmp_path / "run")


@pytest.fixture
def held(paths):
    return Held(paths, cri=None)


@pytest.fixture
def needed(paths, held):
    return Needed(paths=paths, held=held)


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(b"all that is left")
    return path


def stop(held, archive) -> None:
    record = held_record(archive=str(archive))
    held.committed(dataclasses.replace(record, inode=archive.stat().st_ino))


def test_an_archive_that_nobody_names(needed, archive):
    needed.refuse(archive)


@pytest.mark.parametrize("handed_over", [False, True])
def test_what_is_left_of_a_stopped_container(needed, held, archive, tmp_path, handed_over):
    """By its path, through a link, by a second name, and where it was moved to."""
    stop(held, archive)
    record = held.of_sandbox(sandbox_id("5a"))
    held.committed(dataclasses.replace(record, handed_over=handed_over))
    (tmp_path / "link").symlink_to(archive)
    (tmp_path / "second").hardlink_to(archive)
    for name in ("a.tar", "link", "second"):
        with pytest.raises(Precondition, match="what is left of container"):
            needed.refuse(tmp_path / name)
    archive.rename(tmp_path / "moved")
    with pytest.raises(Precondition, match="what is left of container"):
        needed.refuse(tmp_path / "moved")


def test_another_file_of_the_same_inode_number_is_none(needed, held, archive, tmp_path):
    """On another file system, where the archive is still at its place."""
    stop(held, archive)
    (tmp_path / "other").write_bytes(b"")
    needed.refuse(tmp_path / "other")


def test_what_a_container_is_to_be_restored_from(needed, paths, archive, tmp_path):
    directory = paths.restores / ("c" * 64)
    for part in ("images", "work"):
        (directory / part).mkdir(parents=True)
    wanted = dataclasses.replace(plan(), archive=str(archive))
    pending.write(directory, plan=wanted, runc="runc", options=[], criu_config="")
    (tmp_path / "link").symlink_to(archive)
    for name in ("a.tar", "link"):
        with pytest.raises(Busy, match="is to be restored from"):
            needed.refuse(tmp_path / name)
    pending.finish(directory)
    needed.refuse(archive)
