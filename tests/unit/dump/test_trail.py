import os

import pytest

from crishim.archive.digest import digest_bytes
from crishim.dump.trail import Trail
from crishim.errors import Corrupt

ONE, TWO = os.urandom(1_500_000), os.urandom(700)


@pytest.fixture
def archive(tmp_path):
    """An archive's descriptor: ONE at 512, TWO behind it."""
    path = tmp_path / "archive"
    path.write_bytes(bytes(512) + ONE + TWO)
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


def follow(trail: Trail) -> None:
    """Tell a trail of both members, the first in two parts."""
    trail.arrived("checkpoint/pages-1.img", 512, 1_000_000)
    trail.arrived("checkpoint/pages-1.img", 1_000_000, 512 + len(ONE))
    trail.arrived("checkpoint/pages-2.img", 512 + len(ONE), 512 + len(ONE) + len(TWO))


def test_digests_and_copies_of_what_arrived(archive, tmp_path):
    copies = tmp_path / "copies"
    copies.mkdir()
    trail = Trail(archive, copies)
    trail.prepare(3_000_000)
    follow(trail)
    assert trail.finish() == (
        {
            "checkpoint/pages-1.img": digest_bytes(ONE),
            "checkpoint/pages-2.img": digest_bytes(TWO),
        },
        copies,
    )
    assert {path.name: path.read_bytes() for path in copies.iterdir()} == {
        "pages-1.img": ONE,
        "pages-2.img": TWO,
    }


def test_digests_alone(archive):
    trail = Trail(archive, None)
    trail.prepare(3_000_000)
    follow(trail)
    digests, copies = trail.finish()
    assert len(digests) == 2
    assert copies is None


def test_copies_are_given_up_where_there_is_no_room(archive, tmp_path):
    copies = tmp_path / "copies"
    copies.mkdir()
    (copies / "pages-2.img").symlink_to("/dev/full")
    trail = Trail(archive, copies)
    follow(trail)
    digests, left = trail.finish()
    assert len(digests) == 2
    assert left is None
    assert list(copies.iterdir()) == []


def test_a_copy_that_was_prepared_in_vain_is_removed(archive, tmp_path):
    trail = Trail(archive, tmp_path / "none")
    trail.abandon()
    copies = tmp_path / "copies"
    copies.mkdir()
    trail = Trail(archive, copies)
    trail.prepare(100)
    assert trail.finish() == ({}, copies)
    assert list(copies.iterdir()) == []


def test_an_archive_that_got_shorter_is_an_error(archive):
    trail = Trail(archive, None)
    trail.arrived("checkpoint/pages-1.img", 512, 10_000_000)
    trail.arrived("checkpoint/pages-2.img", 0, 1)
    with pytest.raises(Corrupt):
        trail.finish()
