"""Archives that a stopped container or a waiting restore needs, by what they are."""

import dataclasses
import functools
import os

import pytest

from crishim.archive.writer import ArchiveWriter
from crishim.errors import Busy, Precondition
from crishim.housekeeping.needed import Needed
from crishim.ids import sandbox_id
from crishim.paths import Paths
from crishim.restore import plans
from crishim.restore.preparing import Preparing
from crishim.sandbox.held import HeldSandboxes
from crishim.sandbox.heldrecord import Waits
from tests.unit.samples import held_record, plan


@pytest.fixture
def paths(tmp_path):
    return Paths(state=tmp_path / "state", run=tmp_path / "run")


@pytest.fixture
def held(paths):
    return HeldSandboxes(paths, cri=None)


@pytest.fixture
def needed(paths, held):
    return Needed(paths=paths, held=held, preparing=Preparing())


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(b"all that is left")
    return path


def stop(held, archive) -> None:
    record = held_record(archive=str(archive), inode=archive.stat().st_ino)
    held.committed(record, record.containers[0].id)


def test_an_archive_that_nobody_names(needed, archive):
    needed.refuse(archive)


@pytest.mark.parametrize("handed_over", [False, True])
def test_what_is_left_of_a_stopped_container(needed, held, archive, tmp_path, handed_over):
    """By its path, through a link, by a second name, and where it was moved to."""
    stop(held, archive)
    record = held.records.of_sandbox(sandbox_id("5a"))
    if handed_over:
        held.records.put(dataclasses.replace(record, waits=Waits.NO_MORE))
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
    plans.write(directory, plan=wanted, runc="runc", options=[], criu_config="")
    (tmp_path / "link").symlink_to(archive)
    for name in ("a.tar", "link"):
        with pytest.raises(Busy, match="is to be restored from"):
            needed.refuse(tmp_path / name)
    plans.finish(directory)
    needed.refuse(archive)


@pytest.fixture
def planned(paths):
    """The directory of a container that waits for its restore, with a plan that names nothing."""
    directory = paths.restores / ("c" * 64)
    directory.mkdir(parents=True)
    (directory / "pending").write_text("{")
    return directory


def test_a_plan_that_cannot_be_read_may_name_any_archive(needed, planned, archive):
    for ask in (needed.refuse, needed.refuse_planned):
        with pytest.raises(Precondition, match=f"needed: {planned}/pending cannot") as refused:
            ask(archive)
        assert "remove container cccccccccccc" in refused.value.hint
    (planned / "pending").unlink()
    (planned / "pending").mkdir()
    with pytest.raises(Precondition, match=f"{planned}/pending cannot be read"):
        needed.refuse(archive)
    (planned / "pending").rmdir()
    (planned.parent / "stray").write_text("nobody's plan")
    needed.refuse(archive)


def test_plans_that_nobody_can_list(needed, planned, archive, monkeypatch):
    refuse = PermissionError("restores")
    monkeypatch.setattr(os, "listdir", lambda _: (_ for _ in ()).throw(refuse))
    with pytest.raises(Precondition, match=f"{planned.parent} cannot be read"):
        needed.refuse(archive)


@pytest.mark.parametrize("damage", ["content", "disk"])
def test_a_record_that_cannot_be_read_may_name_any_archive(needed, held, paths, archive, damage):
    """Also when its pod is gone, and only a person can tell what it was about."""
    paths.held.mkdir(parents=True)
    record = paths.held / "5a.json"
    if damage == "content":
        record.write_text("{")
        left = paths.held / "5a.json.damaged"
    else:
        record.mkdir()
        left = record
    (paths.held / "5b.txt").write_text("no record")
    held.records.load()
    held.records._files.keep_unreadable(live=())
    with pytest.raises(Precondition, match=f"is still needed: {left} cannot be read") as refused:
        needed.refuse(archive)
    assert "keep the archive that it names" in refused.value.hint
    left.rename(paths.state / "elsewhere")
    needed.refuse(archive)


def test_records_that_nobody_could_list(needed, held, paths, archive, monkeypatch):
    paths.held.mkdir(parents=True)
    with monkeypatch.context() as broken:
        refuse = PermissionError("held")
        broken.setattr(os, "listdir", lambda _: (_ for _ in ()).throw(refuse))
        with pytest.raises(PermissionError):
            held.records.load()
    with pytest.raises(Precondition, match=f"{paths.held} cannot be read"):
        needed.refuse(archive)
    held.records.load()
    needed.refuse(archive)


def test_a_new_name_is_nobodys(held, paths, planned, tmp_path):
    """Whatever cannot be read: only what replaces something is refused."""
    held_file = paths.held / "5a.json"
    held_file.parent.mkdir(parents=True)
    held_file.write_text("{")
    held.records.load()
    replace = functools.partial(
        Needed(paths=paths, held=held, preparing=Preparing()).refuse, tmp_path / "new.tar"
    )
    with ArchiveWriter.create(tmp_path / "new.tar", replace=replace) as writer:
        writer.publish()
    assert (tmp_path / "new.tar").exists()
    with pytest.raises(Precondition, match="nobody knows whether"):
        ArchiveWriter.create(tmp_path / "new.tar", replace=replace)
