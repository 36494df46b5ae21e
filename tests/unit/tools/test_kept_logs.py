"""The logs of failures are kept for an operator, the last of them: a node fails for ever."""

import os

import pytest

from crishim.container import logs


@pytest.fixture
def work(tmp_path):
    directory = tmp_path / "work"
    directory.mkdir()
    (directory / "restore.log").write_text("Error: no such file\n")
    (directory / "pages-1.img").write_text("secret")
    return directory


def test_logs_alone_are_kept_and_only_the_last_of_a_container(work, tmp_path):
    folder = tmp_path / "logs" / "restore-abc"
    logs.save_logs(work, folder)
    (work / "restore.log").rename(work / "dump.log")
    logs.save_logs(work, folder)
    assert [path.name for path in folder.iterdir()] == ["dump.log"]


def test_a_container_that_fails_for_ever_does_not_fill_the_disk(work, tmp_path):
    folders = tmp_path / "logs"
    for number in range(60):
        folder = folders / f"restore-{number:013x}"
        logs.save_logs(work, folder)
        os.utime(folder, ns=(number, number))
    kept = sorted(path.name for path in folders.iterdir())
    assert kept == [f"restore-{number:013x}" for number in range(10, 60)]


def test_what_cannot_be_removed_or_is_somebody_elses_does_not_stop_the_rest(work, tmp_path):
    folders = tmp_path / "logs"
    folders.mkdir()
    for stray in ("notes.txt", "restore-is-a-file"):
        (folders / stray).write_text("an operator's")
        os.utime(folders / stray, ns=(0, 0))
    for number in range(60):
        logs.save_logs(work, folders / f"restore-{number:013x}")
    assert len(list(folders.iterdir())) <= 52
    assert (folders / f"restore-{59:013x}" / "restore.log").exists()
    assert (folders / "notes.txt").read_text() == "an operator's"
    assert (folders / "restore-is-a-file").read_text() == "an operator's"
