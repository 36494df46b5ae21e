"""A layer captured from one overlay and applied to another gives the same view of the root."""

import os
import shutil
import socket
import struct
from collections.abc import Callable, Collection
from pathlib import Path

from crishim.archive.reader import ArchiveReader
from crishim.archive.writer import ArchiveWriter
from crishim.kernel.procs import SharedMapping
from crishim.layer.apply import apply_layer
from crishim.layer.capture import LayerCapture
from crishim.layer.members import MEMBERS
from tests.integration.layer.conftest import OverlayRoot
from tests.integration.layer.walker import view
from tests.unit.samples import manifest

Change = Callable[[Path], None]


def nothing(_: Path) -> None:
    """Change nothing between the passes."""


def travel(
    source: OverlayRoot,
    target: OverlayRoot,
    archive: Path,
    *,
    before: Change,
    between: Change = nothing,
    later: Change = nothing,
    mapped: Callable[[], Collection[SharedMapping]] = tuple,
    at_the_end: Callable[[], object] = tuple,
) -> tuple[dict[str, dict[str, object]], dict[str, dict[str, object]]]:
    """Capture `source`, apply it to `target`, return both merged views.

    Args: mapped: asked for shared mappings when a pass begins.
        at_the_end: called before `source` is unmounted.
    """
    capture = LayerCapture(source.overlay, mapped=mapped)
    with source.mounted() as root, ArchiveWriter.create(archive) as writer:
        before(root)
        writer.end_member(capture.first_pass(writer.fd, writer.begin_member(MEMBERS[0])))
        between(root)
        end = capture.catch_up(writer.fd, writer.begin_member(MEMBERS[1]))
        if end is None:
            writer.drop_member()
        else:
            writer.end_member(end)
        later(root)
        with open(archive.with_suffix(".last"), "w+b") as last:
            if capture.last_pass(last.fileno(), 0) is not None:
                writer.add_file(MEMBERS[2], last.fileno())
        writer.commit(manifest())
        expected = view(root)
        at_the_end()
    with ArchiveReader.open(archive, trusted_owner=False) as reader:
        reader.verify()
        apply_layer(reader, target.overlay, device_allowed=lambda *_: True)
    with target.mounted() as root:
        return expected, view(root)


def nasty(root: Path) -> None:
    """Do to a root file system all that a container can do to it."""
    (root / "etc/motd").unlink()
    shutil.rmtree(root / "gone-dir")
    shutil.rmtree(root / "opaque")
    (root / "opaque").mkdir()
    (root / "opaque/new").write_text("only this")
    (root / "etc/conf.d/a").write_text("changed")
    os.chmod(root / "usr/lib/deep/lib.so", 0o4755)
    names(root)
    special_files(root)
    attributes(root)
    sparse_files(root)
    os.utime(root / "etc/conf.d", ns=(1, 1_234_567_890_123_456_789))
    os.utime(root / "etc/conf.d/a", ns=(0, -1_500_000_000))


def names(root: Path) -> None:
    (root / ".wh.not-a-whiteout").write_text("a file like any other")
    (root / os.fsdecode(b"not \xff utf8\n")).write_bytes(b"x")
    (root / "ünïcode").write_text("y")
    deep = root / "/".join(f"directory-{i:02}-of-a-long-path" for i in range(20)).lstrip("/")
    deep.mkdir(parents=True)
    (deep / ("n" * 255)).write_text("long")
    (root / "link-to-nowhere").symlink_to("../" * 50 + "z" * 300)
    (root / "link-to-etc").symlink_to("etc")
    (root / "hard-a").write_bytes(os.urandom(300_000))
    os.link(root / "hard-a", root / "etc/hard-b")
    os.link(root / "link-to-etc", root / "hard-symlink", follow_symlinks=False)


def special_files(root: Path) -> None:
    os.mkfifo(root / "fifo", 0o640)
    os.mknod(root / "null", 0o20666, os.makedev(1, 3))
    os.chown(root / "fifo", 70_000, 3_000_000)
    os.chown(root / "link-to-etc", 12, 34, follow_symlinks=False)
    (root / "sticky").mkdir()
    os.chmod(root / "sticky", 0o3777)
    (root / "secret").mkdir(mode=0o000)


def attributes(root: Path) -> None:
    file = root / "with-attributes"
    file.write_bytes(b"#!")
    os.chown(file, 1000, 1000)
    os.chmod(file, 0o2750)
    os.setxattr(file, "user.binary", bytes(range(256)))
    os.setxattr(file, "user.empty", b"")
    os.setxattr(file, "trusted.mine", b"t=\n")
    os.setxattr(file, "security.capability", struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0))
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", *entry)
        for entry in (
            (1, 7, 2**32 - 1),
            (2, 5, 77),
            (4, 4, 2**32 - 1),
            (16, 5, 2**32 - 1),
            (32, 0, 2**32 - 1),
        )
    )
    os.setxattr(file, "system.posix_acl_access", acl)
    os.setxattr(root / "sticky", "system.posix_acl_default", acl)
    os.setxattr(root / "etc", "user.on-a-directory", b"d")


def sparse_files(root: Path) -> None:
    for name, size, places in (
        ("hole-only", 10 << 20, ()),
        ("hole-then-data", 8 << 20, (4 << 20,)),
        ("data-then-hole", 8 << 20, (0,)),
        ("many", 64 << 20, tuple(range(0, 64 << 20, 1 << 20))),
    ):
        with open(root / name, "wb") as file:
            for place in places:
                os.pwrite(file.fileno(), os.urandom(70_000), place)
            file.truncate(size)
            os.fsync(file.fileno())
    (root / "large").write_bytes(os.urandom(5 << 20))


def test_nasty_tree_looks_the_same_afterwards(source, target, tmp_path):
    expected, found = travel(source, target, tmp_path / "a.tar", before=nasty)
    assert len(expected) > 40
    assert found == expected


def test_sockets_are_left_out(source, target, tmp_path):
    def bind(root: Path) -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(root / "s"))

    expected, found = travel(source, target, tmp_path / "a.tar", before=bind)
    del expected["s"]
    assert found.keys() == expected.keys()
