import contextlib
import gzip
import io
import os
import tarfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crishim.archive.reader import ArchiveReader
from crishim.errors import Corrupt, CrishimError, NotFound, Precondition, Unsupported
from tests.unit.archive.test_writer import ENTRIES, write


@pytest.fixture
def archive(tmp_path):
    write(tmp_path / "a.tar", ENTRIES)
    return tmp_path / "a.tar"


def refused(path, kind, match=None):
    """Tell whether a full read is refused, by this class of error and text."""
    with pytest.raises(kind, match=match), open_any(path) as reader:
        reader.verify()
    return True


def open_any(path):
    return ArchiveReader.open(path, trusted_owner=False)


def made(path, members, fmt=tarfile.GNU_FORMAT):
    """Write a tar of TarInfo and data pairs with another tool."""
    with tarfile.open(path, "w", format=fmt) as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def info(name, kind=tarfile.REGTYPE, link=""):
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = link
    return member


def test_truncation_anywhere_is_noticed(archive):
    whole = archive.read_bytes()
    for size in range(0, len(whole), 509):
        archive.write_bytes(whole[:size])
        assert refused(archive, Corrupt)


def test_any_flipped_bit_that_matters_is_noticed(archive):
    whole = bytearray(archive.read_bytes())
    noticed = 0
    for position in range(0, len(whole), 37):
        whole[position] ^= 4
        archive.write_bytes(whole)
        try:
            with open_any(archive) as reader:
                reader.verify()
                found = {name: reader.read(name) for name in ENTRIES}
            assert found == ENTRIES
        except CrishimError:
            noticed += 1
        whole[position] ^= 4
    assert noticed > 100


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(data=st.data())
def test_whatever_is_done_to_an_archive_gives_ours_errors_only(archive, data):
    whole = bytearray(archive.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(whole) - 1))
        whole[start : start + 1] = data.draw(st.binary(max_size=6))
    broken = archive.with_name("broken.tar")
    broken.write_bytes(whole)
    with contextlib.suppress(CrishimError), open_any(broken) as reader:
        reader.verify()
        assert {name: reader.read(name) for name in ENTRIES} == ENTRIES


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "checkpoint/../../evil",
        "/etc/passwd",
        "checkpoint//x",
        "./x",
        "checkpoint/.",
        "x" * 300,
        "new\nline",
        "\u00fc",
    ],
)
@pytest.mark.parametrize("fmt", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_that_could_leave_the_directory(tmp_path, name, fmt):
    path = made(tmp_path / "x.tar", [(info(name), b"x")], fmt)
    assert refused(path, Corrupt, "name")


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"S"],
)
def test_only_files_and_directories(tmp_path, kind):
    path = made(tmp_path / "x.tar", [(info("checkpoint/x", kind, "/etc/shadow"), b"")])
    assert refused(path, Corrupt, "something else than files")


def test_one_name_twice(tmp_path):
    path = made(tmp_path / "x.tar", [(info("a"), b"1"), (info("a"), b"2")])
    assert refused(path, Corrupt, "two entries")


def test_long_names_of_other_tools_are_read(tmp_path):
    name = "a/" * 60 + "b" * 100
    for fmt in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with open_any(made(tmp_path / "x.tar", [(info(name), b"x")], fmt)) as reader:
            assert reader.read(name) == b"x"


def test_an_entry_that_ends_behind_the_file(tmp_path):
    header = info("checkpoint/pages-1.img")
    header.size = 1 << 62
    (tmp_path / "x.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    assert refused(tmp_path / "x.tar", Corrupt, "truncated")


def test_compressed_archives_are_refused_by_name(archive):
    archive.write_bytes(gzip.compress(archive.read_bytes()))
    assert refused(archive, Unsupported, "gzip")


def test_missing_file_directory_and_link(tmp_path, archive):
    assert refused(tmp_path / "none", NotFound)
    assert refused(tmp_path, Precondition)
    (tmp_path / "link").symlink_to(archive)
    assert refused(tmp_path / "link", Precondition)
    os.mkfifo(tmp_path / "fifo")
    assert refused(tmp_path / "fifo", Precondition)


def test_an_archive_without_our_manifest(tmp_path):
    path = made(tmp_path / "x.tar", [(info("checkpoint/inventory.img"), b"x")])
    assert refused(path, Precondition, "no manifest")


@pytest.mark.parametrize("change", ["missing", "extra", "longer"])
def test_entries_and_manifest_must_agree(tmp_path, archive, change):
    with tarfile.open(archive) as tar:
        members = [(m, tar.extractfile(m).read()) for m in tar.getmembers() if m.isfile()]
    if change == "missing":
        del members[0]
    if change == "extra":
        members.append((info("checkpoint/evil.img"), b"x"))
    if change == "longer":
        members[0] = (members[0][0], b"longer")
    assert refused(made(tmp_path / "x.tar", members), Corrupt, "do not agree")


def test_images_are_unpacked_privately(tmp_path, archive):
    (tmp_path / "images").mkdir()
    with open_any(archive) as reader:
        total = reader.extract_images(tmp_path / "images")
    assert total == 9000 + 4096 + 1
    found = {p.name: p.read_bytes() for p in (tmp_path / "images").iterdir()}
    expected = {k.partition("/")[2]: v for k, v in ENTRIES.items() if k.startswith("checkpoint/")}
    assert found == expected
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "images").iterdir()} == {0o600}


def test_nested_images_are_refused(tmp_path):
    path = made(tmp_path / "x.tar", [(info("checkpoint/a/b"), b"x")])
    with open_any(path) as reader, pytest.raises(Corrupt, match="nested"):
        reader.extract_images(tmp_path)


def test_progress_reaches_the_end(archive):
    seen = []
    with open_any(archive) as reader:
        reader.verify(lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] == sum(len(data) for data in ENTRIES.values())


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_an_archive_that_others_may_write_is_refused(archive, mode):
    os.chmod(archive, mode)
    with pytest.raises(Precondition, match="somebody else") as caught:
        ArchiveReader.open(archive)
    assert "chmod 0600" in caught.value.hint


def test_a_directory_that_others_may_write_is_refused(archive):
    os.chmod(archive.parent, 0o777)
    with pytest.raises(Precondition, match=r"replace a\.tar"):
        ArchiveReader.open(archive)


def test_a_private_archive_is_trusted(archive):
    with ArchiveReader.open(archive) as reader:
        assert reader.manifest().container.name == "counter"


def test_images_are_compared_where_criu_will_read_them(archive, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    with open_any(archive) as reader:
        reader.extract_images(images)
        reader.verify(images=images)
        victim = max(images.iterdir(), key=lambda path: path.stat().st_size)
        victim.write_bytes(bytes(victim.stat().st_size))
        with pytest.raises(Corrupt, match=victim.name):
            reader.verify(images=images)


def test_errors_name_the_archive(archive):
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    assert refused(archive, Corrupt, f"^{archive}: the archive is truncated")
    archive.write_bytes(whole.replace(b'"counter"', b'"c0unter"'))
    assert refused(archive, Corrupt, rf"^{archive}: crishim\.json does not match its own digest")
