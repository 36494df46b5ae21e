import pytest

from crishim.errors import Unsupported
from crishim.kernel import mounts

TABLE = rb"""29 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
600 29 0:52 / /run/with\040space\134and\011tab rw,nosuid - tmpfs tmpfs rw,size=10k
700 29 0:60 / / rw - overlay overlay rw,lowerdir=/2\134::/1,upperdir=/up\054per,workdir=/wo\040rk
701 700 0:61 / /proc rw - proc proc rw
702 700 0:62 /sub /data/x rw master:3 propagate_from:2 - ext4 /dev/sda1 rw
"""


def test_parse_undoes_the_escapes():
    second = mounts.parse_mountinfo(TABLE)[1]
    assert second.mount_point == "/run/with space\\and\ttab"
    assert second.options == ("rw", "nosuid")


def test_a_name_may_hold_what_is_no_line_end():
    table = b"1 0 0:1 /a\rb /data/a\rb rw - fuse.\xff none rw\n2 0 0:1 / / rw - tmpfs none rw\n"
    first, second = mounts.parse_mountinfo(table)
    assert (first.root, first.mount_point) == ("/a\rb", "/data/a\rb")
    assert second.mount_point == "/"


def test_optional_fields_do_not_shift_the_rest():
    last = mounts.parse_mountinfo(TABLE)[-1]
    assert (last.fs_type, last.source, last.root) == ("ext4", "/dev/sda1", "/sub")


def test_topmost_mount_wins():
    top = mounts.mount_at(mounts.parse_mountinfo(TABLE), "/")
    assert top is not None
    assert top.mount_id == 700


def test_no_mount_there():
    assert mounts.mount_at(mounts.parse_mountinfo(TABLE), "/data") is None


def test_overlay_directories_with_commas_colons_and_blanks():
    top = mounts.mount_at(mounts.parse_mountinfo(TABLE), "/")
    assert top is not None
    overlay = mounts.overlay_of(top)
    assert str(overlay.upper) == "/up,per"
    assert str(overlay.work) == "/wo rk"
    assert overlay.lower == ("/2:", "/1")


def test_features_of_an_overlay():
    overlay = mounts.overlay_from_options(
        ["lowerdir+=/b", "lowerdir+=/a", "upperdir=/u", "workdir=/w", "userxattr", "metacopy=on"]
    )
    assert overlay.lower == ("/b", "/a")
    assert overlay.xattr_prefix == "user.overlay."
    assert overlay.metacopy
    assert not overlay.redirect_dir


@pytest.mark.parametrize("fs_type", ["btrfs", "fuse.fuse-overlayfs"])
def test_other_file_systems_are_refused_by_name(fs_type):
    table = b"1 0 0:1 / / rw - %s none rw" % fs_type.encode()
    with pytest.raises(Unsupported, match=fs_type):
        mounts.overlay_of(mounts.parse_mountinfo(table)[0])


def test_read_only_overlay_is_refused():
    with pytest.raises(Unsupported, match="no writable layer"):
        mounts.overlay_from_options(["ro", "lowerdir=/a:/b"])


def test_mounts_below_knows_directories_from_prefixes():
    table = mounts.parse_mountinfo(
        b"1 0 0:1 / /a/b rw - x x rw\n2 0 0:1 / /a/bc rw - x x rw\n3 0 0:1 / /a/b/c rw - x x rw"
    )
    assert [m.mount_id for m in mounts.mounts_below(table, "/a/b")] == [1, 3]
    assert len(mounts.mounts_below(table, "/")) == 3


def test_our_own_table_is_readable():
    assert mounts.mount_at(mounts.read_mounts(), "/") is not None
