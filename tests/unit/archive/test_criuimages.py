"""What CRIU's images say, and that hostile ones are refused."""

import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crishim._proto.criu import images_pb2 as images
from crishim.archive import criuimages
from crishim.archive.criuimages import InetSocket, Mount, Process
from crishim.archive.reader import ArchiveReader
from crishim.errors import Corrupt, CrishimError, NotFound
from tests.unit.archive.test_writer import write
from tests.unit.criu_samples import ENTRIES, FILES, MOUNTS, PSTREE, image


def read(tmp_path, what, **changes):
    """Read one kind of thing from an archive with some images exchanged (None: left out)."""
    changed = {f"checkpoint/{name.replace('_', '-')}.img": data for name, data in changes.items()}
    entries = {name: data for name, data in {**ENTRIES, **changed}.items() if data is not None}
    write(tmp_path / "a.tar", entries)
    with ArchiveReader.open(tmp_path / "a.tar", trusted_owner=False) as archive:
        return what(archive)


def test_processes_with_parents_names_and_users(tmp_path):
    found = read(tmp_path, criuimages.processes)
    assert found[:2] == [
        Process(pid=1, ppid=0, command="init", uid=0),
        Process(pid=7, ppid=1, command="worker", uid=33),
    ]
    assert [process.pid for process in found] == [1, 7, 9, 8]


def test_a_name_that_would_steer_the_terminal_is_shown_instead(tmp_path):
    (evil,) = (p for p in read(tmp_path, criuimages.processes) if p.pid == 8)
    assert evil.command.startswith("evil\\x1b[2J")
    assert evil.command.isprintable()


def test_sockets_of_both_families_and_protocols(tmp_path):
    assert read(tmp_path, criuimages.sockets) == [
        InetSocket(
            protocol="tcp", state="established", local="10.1.2.3:6379", remote="192.0.2.9:40001"
        ),
        InetSocket(protocol="tcp6", state="listen", local="[::]:80", remote=""),
        InetSocket(protocol="udp", state="", local="0.0.0.0:53", remote=""),
    ]


def test_mounts_by_place(tmp_path):
    assert read(tmp_path, criuimages.mounts) == [
        Mount(destination="/", type="overlay", source="overlay", read_only=False),
        Mount(destination="/data", type="", source="/dev/vda", read_only=False),
        Mount(destination="/proc", type="proc", source="proc", read_only=False),
    ]


def test_odd_values_are_shown_as_they_are(tmp_path):
    odd = images.File(isk=images.InetSocket(family=2, proto=250, state=99, src_addr=[]))
    other = images.File(isk=images.InetSocket(family=77))
    found = read(tmp_path, criuimages.sockets, files=image(FILES, odd, other))
    assert found == [InetSocket(protocol="250", state="", local="0.0.0.0:0", remote="")]


@pytest.mark.parametrize(
    ("pstree", "message"),
    [
        (b"", "does not begin"),
        (b"x" * 40, "does not begin"),
        (image(MOUNTS), "does not begin"),
        (image(PSTREE)[:8] + b"\x01", "cut short"),
        (image(PSTREE)[:8] + struct.pack("<I", 1 << 31) + b"x", "cut short"),
        (image(PSTREE, b"\x08"), "damaged"),
        (image(PSTREE, *[b""] * 65_537), "more than 65536 entries"),
    ],
)
def test_damaged_images_are_refused(tmp_path, pstree, message):
    with pytest.raises(Corrupt, match=message):
        read(tmp_path, criuimages.processes, pstree=pstree, core_0=ENTRIES["checkpoint/core-1.img"])


def test_missing_images_are_refused(tmp_path):
    with pytest.raises(NotFound, match="pstree"):
        read(tmp_path, criuimages.processes, pstree=None)
    with pytest.raises(NotFound, match="core-9"):
        read(tmp_path, criuimages.processes, core_9=None)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.binary(max_size=200), magic=st.sampled_from((PSTREE, FILES, MOUNTS)))
def test_any_bytes_are_read_or_refused(tmp_path, data, magic):
    body = image(magic)[:8] + data
    entry = image(magic, data)
    for what in (criuimages.processes, criuimages.sockets, criuimages.mounts):
        for content in (body, entry):
            try:
                read(tmp_path, what, pstree=content, files=content, mountpoints_12=content)
            except CrishimError:
                continue
