"""Records of stopped containers: there and back, and what counts as committed."""

import time
from dataclasses import replace

import pytest

from crishim.errors import Corrupt
from crishim.sandbox import evidence, heldrecord
from crishim.sandbox.evidence import Standing
from crishim.sandbox.heldrecord import Waits
from tests.unit.samples import held_record


def standing(record):
    return evidence.standing(record.containers[0], boot_id=record.boot_id)


@pytest.fixture
def record(tmp_path):
    return held_record(archive=str(tmp_path / "a.tar"))


def test_there_and_back(record):
    assert heldrecord.CODEC.decode(heldrecord.CODEC.encode(record)) == record


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"sandbox": "../x"}'])
def test_anything_else_is_refused(data):
    with pytest.raises(Corrupt):
        heldrecord.CODEC.decode(data)


def test_only_the_file_that_was_written_is_the_archive(record, tmp_path):
    """An older archive of the same name does not count; the new one does once it is renamed."""
    (tmp_path / "a.tar").write_text("old")
    partial = tmp_path / ".a.tar.0123abcd.partial"
    partial.write_text("new")
    record = record.all_changed(inode=partial.stat().st_ino)
    assert standing(record) is Standing.HALF
    partial.rename(tmp_path / "a.tar")
    assert standing(record) is Standing.COMMITTED


def test_an_archive_that_is_nowhere_proves_nothing(record, tmp_path):
    """It may have been moved after it was whole, or its directory may not be mounted."""
    assert standing(record) is Standing.UNKNOWN
    record = record.all_changed(archive=str(tmp_path / "not" / "mounted" / "a.tar"))
    assert standing(record) is Standing.UNKNOWN


def test_a_file_of_another_device_is_another_file(record, tmp_path):
    """Within one boot: devices are numbered anew at the next."""
    (tmp_path / "a.tar").write_text("whole")
    found = (tmp_path / "a.tar").stat()
    record = record.all_changed(inode=found.st_ino, device=found.st_dev)
    record = replace(record, boot_id=heldrecord.this_boot())
    assert standing(record) is Standing.COMMITTED
    record = record.all_changed(device=found.st_dev + 1)
    assert standing(record) is Standing.UNKNOWN
    record = replace(record, boot_id="another")
    assert standing(record) is Standing.COMMITTED


def test_waiting_is_not_counted_by_the_wall_clock(record):
    """Which somebody may set: the connections would be let go at once, or never."""
    now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    since_ns = now_ns - 5_000_000_000
    record = replace(record, stopped_at_ns=0, stopped_at_boot_ns=since_ns)
    record = replace(record, boot_id=heldrecord.this_boot())
    assert 5 <= record.waited_s < 60
    assert replace(record, boot_id="another", stopped_at_boot_ns=0).waited_s == 0


def test_connections_that_were_handed_over_do_not_wait(record):
    assert record.waiting == ("10.0.0.2",)
    assert replace(record, waits=Waits.NO_MORE).waiting == ()


OLD = (
    b'{"sandbox": "5a", "container": "c0", "archive": "/a.tar", "inode": 0, "netns": '
    b'"/run/netns/x", "runc": {"binary": "runc", "root": "/run/runc", "systemd_cgroup": true}, '
    b'"frozen": true, "kubelet": true, "stopped_at_ns": 7, "interfaces": [{"name": "eth0", "mac": '
    b'"02:00:00:00:00:01", "mtu_bytes": 1500, "addresses": [{"address": "10.0.0.2", '
    b'"prefix_bits": 24, "scope": 0}], "routes": [], "neighbours": []}], "pod_hold": {"netns": '
    b'"/run/netns/x", "family": "netdev", "table": "crishim_hold_1"}, "node_hold": null, '
    b'"handed_over": false, "reservations": "/var/lib/cni/networks/pods"}'
)


def test_what_crishim_0_1_wrote_is_read():
    """It had no version, and at first less to say; a doubt has room in its place."""
    read = heldrecord.CODEC.decode(OLD)
    assert read == held_record(archive="/a.tar")
    written = heldrecord.CODEC.encode(read.all_changed(doubtful=True))
    assert len(written) <= len(OLD) + len(b', "device": 0, "boot_id": "", "stopped_at_boot_ns": 0')
