"""A layer made by an enemy stays inside the upper directory, or is refused."""

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from crishim.archive.reader import ArchiveReader
from crishim.archive.writer import ArchiveWriter
from crishim.errors import Corrupt, Precondition, Unsupported
from crishim.kernel import mounts
from crishim.layer.apply import apply_layer
from crishim.layer.members import MEMBERS
from crishim.layer.overlay import overlay_of_snapshot
from tests.unit.samples import manifest


@pytest.fixture
def outside(tmp_path):
    """A directory next to the upper one, which nothing may touch."""
    directory = tmp_path / "outside"
    directory.mkdir()
    (directory / "file").write_text("precious")
    yield directory
    assert os.listdir(directory) == ["file"]
    assert (directory / "file").read_text() == "precious"
    assert (directory / "file").stat().st_mode & 0o777 == 0o644


def member(name, kind=tarfile.REGTYPE, **fields):
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mode = 0o755
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def layer(*members: tarfile.TarInfo, data: bytes = b"evil") -> bytes:
    """Return a tar by another tool."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info in members:
            content = data if info.isreg() else b""
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def apply(tmp_path: Path, first: bytes, second: bytes | None = None, *, allowed=False) -> Path:
    """Apply layers to the upper directory and return it."""
    upper = tmp_path / "upper"
    upper.mkdir(exist_ok=True)
    archive = tmp_path / "a.tar"
    archive.unlink(missing_ok=True)
    with ArchiveWriter.create(archive) as writer:
        writer.add_bytes(MEMBERS[0], first)
        if second is not None:
            writer.add_bytes(MEMBERS[1], second)
        writer.commit(manifest())
    overlay = overlay_of_snapshot(
        [("overlay", "overlay", ["lowerdir=/l", f"upperdir={upper}", "workdir=/w"])]
    )
    with ArchiveReader.open(archive, trusted_owner=False) as reader:
        apply_layer(reader, overlay, device_allowed=lambda *_: allowed)
    return upper


@pytest.mark.parametrize(
    "name", ["../outside/file", "/etc/evil", "a/../../outside/x", "a//b", "..", "a/.", "a\0b"]
)
def test_names_that_lead_outside(tmp_path, outside, name):
    pax = {"path": name}
    with pytest.raises(Corrupt):
        apply(tmp_path, layer(member("a", tarfile.DIRTYPE), member("x", pax_headers=pax)))


def test_whiteouts_with_names_that_lead_outside(tmp_path, outside):
    for name in (".wh...", ".wh..", ".wh."):
        with pytest.raises(Corrupt):
            apply(tmp_path, layer(member("d", tarfile.DIRTYPE), member(f"d/{name}"), data=b""))


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE])
def test_a_link_in_the_way_is_not_followed(tmp_path, outside, kind):
    for target in ("../outside", str(outside)):
        link = member("link", tarfile.SYMTYPE, linkname=target)
        with pytest.raises(Corrupt):
            apply(tmp_path, layer(link, member("link/file", kind, linkname="x")))


def test_a_link_in_the_way_of_a_whiteout_is_not_followed(tmp_path, outside):
    link = member("link", tarfile.SYMTYPE, linkname="../outside")
    for name in ("link/.wh.file", "link/.wh..wh..opq"):
        with pytest.raises(Corrupt):
            apply(tmp_path, layer(link, member(name), data=b""))


def test_a_link_is_replaced_not_written_through(tmp_path, outside):
    (tmp_path / "upper").mkdir()
    (tmp_path / "upper/a").symlink_to("../outside/file")
    (tmp_path / "upper/d").symlink_to("../outside")
    upper = apply(tmp_path, layer(member("a"), member("d", tarfile.DIRTYPE), member("d/file")))
    assert (upper / "a").read_bytes() == b"evil"
    assert not (upper / "a").is_symlink()
    assert (upper / "d/file").read_bytes() == b"evil"


@pytest.mark.parametrize("target", ["../outside/file", "/etc/passwd", "link/file", "none", "", "d"])
def test_hard_links_reach_only_the_layer(tmp_path, outside, target):
    with pytest.raises(Corrupt):
        apply(
            tmp_path,
            layer(
                member("d", tarfile.DIRTYPE),
                member("link", tarfile.SYMTYPE, linkname="../outside"),
                member("stolen", tarfile.LNKTYPE, linkname=target),
            ),
        )
    assert not (tmp_path / "upper/stolen").exists()


def test_a_hard_link_to_a_symbolic_link_does_not_follow_it(tmp_path, outside):
    upper = apply(
        tmp_path,
        layer(
            member("link", tarfile.SYMTYPE, linkname="../outside/file"),
            member("b", tarfile.LNKTYPE, linkname="link"),
        ),
    )
    assert (upper / "b").is_symlink()


def test_devices_need_permission(tmp_path):
    device = member("disk", tarfile.BLKTYPE, devmajor=8, devminor=0)
    with pytest.raises(Precondition, match=r"/disk \(8:0\)"):
        apply(tmp_path, layer(device))
    upper = apply(tmp_path, layer(device), allowed=True)
    status = os.lstat(upper / "disk")
    assert stat.S_ISBLK(status.st_mode)
    assert status.st_rdev == os.makedev(8, 0)


def test_a_whiteout_device_needs_permission_as_a_device(tmp_path):
    with pytest.raises(Precondition):
        apply(tmp_path, layer(member("x", tarfile.CHRTYPE, devmajor=0, devminor=0)))


def test_attributes_of_the_overlay_are_not_taken_from_a_layer(tmp_path):
    evil = {
        "SCHILY.xattr.trusted.overlay.redirect": "/etc",
        "SCHILY.xattr.trusted.overlay.metacopy": "",
        "SCHILY.xattr.security.selinux": "label",
        "SCHILY.xattr.user.kept": "yes",
    }
    upper = apply(tmp_path, layer(member("a", pax_headers=evil)))
    assert os.listxattr(upper / "a") == ["user.kept"]


def test_a_mount_in_the_upper_directory_is_not_entered(tmp_path, outside):
    (tmp_path / "upper/m").mkdir(parents=True)
    mounts.mount(str(outside), tmp_path / "upper/m", fs_type="", flags=mounts.MS_BIND)
    try:
        with pytest.raises(Corrupt):
            apply(tmp_path, layer(member("m/file")))
        with pytest.raises(Precondition):
            apply(tmp_path, layer(member("m")))
    finally:
        mounts.umount(tmp_path / "upper/m")


@pytest.mark.parametrize("cut", [1, 512, 600, 1100, 1536, 1700])
def test_a_truncated_layer(tmp_path, cut):
    whole = layer(member("a"), member("b"))
    useful = whole.rstrip(b"\0")
    with pytest.raises(Corrupt):
        apply(tmp_path, whole[: max(len(useful) - cut, 0)])


@pytest.mark.parametrize(
    "sparse_map",
    [b"1\n0\n99\n", b"2\n8\n2\n0\n2\n", b"x\n", b"99999999999999999999\n", b"1\n", b"1\n50\n90\n"],
)
def test_wrong_maps_of_sparse_files(tmp_path, sparse_map):
    headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "s",
        "GNU.sparse.realsize": "100",
    }
    with pytest.raises(Corrupt):
        apply(tmp_path, layer(member("s", pax_headers=headers), data=sparse_map.ljust(512, b"\0")))


def test_applying_twice_gives_the_same(tmp_path):
    first = layer(
        member("d", tarfile.DIRTYPE, mtime=5),
        member("d/a"),
        member("d/b", tarfile.LNKTYPE, linkname="d/a"),
        member("d/c", tarfile.SYMTYPE, linkname="a"),
    )
    apply(tmp_path, first)
    upper = apply(tmp_path, first)
    assert sorted(os.listdir(upper / "d")) == ["a", "b", "c"]
    assert os.stat(upper / "d/a").st_nlink == 2
    assert os.stat(upper / "d").st_mtime == 5


def test_what_the_runtime_made_meanwhile_is_merged(tmp_path):
    upper = tmp_path / "upper"
    (upper / "etc").mkdir(parents=True)
    (upper / "etc/hostname").write_text("")
    (upper / "becomes-file").mkdir()
    (upper / "becomes-file/x").write_text("")
    apply(tmp_path, layer(member("etc", tarfile.DIRTYPE), member("etc/a"), member("becomes-file")))
    assert sorted(os.listdir(upper / "etc")) == ["a", "hostname"]
    assert (upper / "becomes-file").read_bytes() == b"evil"


@pytest.mark.parametrize(
    "snapshot", [[], [("bind", "/x", ["rw"])], [("overlay", "overlay", ["lowerdir=/a:/b"])]]
)
def test_other_snapshots_are_refused(snapshot):
    with pytest.raises(Unsupported):
        overlay_of_snapshot(snapshot)


@pytest.mark.parametrize("kind", [None, tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_a_change_of_a_file_that_is_none(tmp_path, outside, kind):
    there = [] if kind is None else [member("x", kind, linkname="../outside/file")]
    patch = {
        "CRISHIM.patch": "1",
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "x",
        "GNU.sparse.realsize": "0",
    }
    changes = layer(member("x", pax_headers=patch), data=b"0\n".ljust(512, b"\0"))
    with pytest.raises(Corrupt):
        apply(tmp_path, layer(*there), changes)
