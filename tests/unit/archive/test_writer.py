import errno
import os
import tarfile

import pytest

from crishim.archive.reader import ArchiveReader
from crishim.archive.writer import ArchiveWriter, sweep_partials
from crishim.errors import NoSpace, NotFound, Precondition
from tests.unit.samples import manifest


def write(target, entries, *, prepared=0):
    """Write an archive of some entries; pages by the late-header way."""
    with ArchiveWriter.create(target, replace=lambda: None) as writer:
        if prepared:
            writer.prepare(prepared)
        for name, data in entries.items():
            if name.startswith("checkpoint/pages"):
                offset = writer.begin_member(name)
                os.pwrite(writer.fd, data, offset)
                writer.end_member(offset + len(data))
            else:
                writer.add_bytes(name, data)
        return writer.commit(manifest())


ENTRIES = {
    "rootfs-diff.tar": b"layer" * 300,
    "checkpoint/pages-1.img": b"p" * 9000,
    "checkpoint/pages-2.img": b"",
    "checkpoint/pages-3.img": b"q" * 4096,
    "checkpoint/inventory.img": b"i",
    "config.dump": b"{}",
}


@pytest.mark.parametrize("prepared", [0, 5000, 3 << 20])
def test_everybody_reads_what_was_written(tmp_path, prepared):
    size = write(tmp_path / "a.tar", ENTRIES, prepared=prepared)
    assert (tmp_path / "a.tar").stat().st_size == size
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert tar.getnames() == ["checkpoint", *ENTRIES, "crishim.json"]
        for name, data in ENTRIES.items():
            assert tar.extractfile(name).read() == data
    with ArchiveReader.open(tmp_path / "a.tar", trusted_owner=False) as reader:
        reader.verify()
        assert {name: reader.read(name) for name in ENTRIES} == ENTRIES


def test_pages_begin_on_a_page_boundary(tmp_path):
    write(tmp_path / "a.tar", ENTRIES)
    with ArchiveReader.open(tmp_path / "a.tar", trusted_owner=False) as reader:
        offsets = [m.offset for name, m in reader.members.items() if "pages" in name]
    assert [offset % 4096 for offset in offsets] == [0, 0, 0]


def test_the_file_is_private_and_alone(tmp_path):
    write(tmp_path / "a.tar", ENTRIES)
    assert os.listdir(tmp_path) == ["a.tar"]
    assert (tmp_path / "a.tar").stat().st_mode & 0o777 == 0o600


def test_a_longer_file_is_replaced_where_that_is_wanted(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"old" * 1_000_000)
    with ArchiveWriter.create(tmp_path / "a.tar", replace=lambda: None) as writer:
        size = writer.commit(manifest())
    assert (tmp_path / "a.tar").stat().st_size == size


def test_nothing_is_left_of_an_aborted_archive(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"old")
    with ArchiveWriter.create(tmp_path / "a.tar", replace=lambda: None) as writer:
        writer.add_bytes("config.dump", b"{}")
    assert os.listdir(tmp_path) == ["a.tar"]
    assert (tmp_path / "a.tar").read_bytes() == b"old"


def test_missing_directory(tmp_path):
    with pytest.raises(NotFound):
        ArchiveWriter.create(tmp_path / "none/a.tar")


def test_a_directory_of_that_name(tmp_path):
    with pytest.raises(Precondition, match="directory"):
        ArchiveWriter.create(tmp_path)


def test_full_disk_is_no_space(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(NoSpace), ArchiveWriter.create(tmp_path / "a.tar") as writer:
        writer.prepare(1 << 20)
    assert os.listdir(tmp_path) == []


def test_sweep_takes_dead_writers_files_only(tmp_path):
    (tmp_path / ".a.tar.0123abcd.partial").write_bytes(b"dead")
    (tmp_path / ".unrelated.partial").write_bytes(b"x")
    (tmp_path / "b.tar").write_bytes(b"x")
    with ArchiveWriter.create(tmp_path / "live.tar") as writer:
        assert sweep_partials(tmp_path) == [".a.tar.0123abcd.partial"]
        writer.commit(manifest())
    assert sorted(os.listdir(tmp_path)) == [".unrelated.partial", "b.tar", "live.tar"]
