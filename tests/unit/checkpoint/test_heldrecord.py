"""Records of stopped containers: there and back, and what counts as committed."""

from dataclasses import replace
from pathlib import Path

import pytest

from crishim.checkpoint import heldrecord
from crishim.checkpoint.heldrecord import HeldRecord
from crishim.checkpoint.hold import HoldRecord
from crishim.errors import Corrupt
from crishim.ids import container_id, sandbox_id
from crishim.kernel.interface import Address, InterfaceState
from crishim.tools.runc import Runc


@pytest.fixture
def record(tmp_path):
    state = InterfaceState(
        name="eth0",
        mac="02:00:00:00:00:01",
        mtu_bytes=1500,
        addresses=(Address(address="10.0.0.2", prefix_bits=24),),
    )
    return HeldRecord(
        sandbox=sandbox_id("5a"),
        container=container_id("c0"),
        archive=str(tmp_path / "a.tar"),
        inode=0,
        netns="/run/netns/x",
        runc=Runc(binary="runc", root=Path("/run/runc"), systemd_cgroup=True),
        frozen=True,
        kubelet=True,
        stopped_at_ns=7,
        interfaces=(state,),
        pod_hold=HoldRecord(netns="/run/netns/x", family="netdev", table="crishim_hold_1"),
    )


def test_there_and_back(record):
    assert heldrecord.decode(heldrecord.encode(record)) == record


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"sandbox": "../x"}'])
def test_anything_else_is_refused(data):
    with pytest.raises(Corrupt):
        heldrecord.decode(data)


def test_only_the_file_that_was_written_is_the_archive(record, tmp_path):
    """An older archive of the same name does not count; the new one does once it is renamed."""
    (tmp_path / "a.tar").write_text("old")
    partial = tmp_path / ".a.tar.partial"
    partial.write_text("new")
    record = replace(record, inode=partial.stat().st_ino)
    assert not heldrecord.is_committed(record)
    partial.rename(tmp_path / "a.tar")
    assert heldrecord.is_committed(record)
    (tmp_path / "a.tar").unlink()
    assert not heldrecord.is_committed(record)


def test_connections_that_were_handed_over_do_not_wait(record):
    assert record.waiting == ("10.0.0.2",)
    assert replace(record, handed_over=True).waiting == ()
