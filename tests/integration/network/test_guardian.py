"""The guardian lifts the hold of a daemon that is gone, by itself: no nft program is there."""

import os
import shutil

import pytest

from crishim.dump.guardian import Guardian
from crishim.kernel import process
from crishim.network import hold
from tests.integration.network.test_hold import tables


@pytest.fixture
def charge(tmp_path):
    (tmp_path / "dump").mkdir()
    (tmp_path / "cgroup").mkdir()
    (tmp_path / "cgroup" / "cgroup.freeze").write_text("1")
    fd = os.open(tmp_path / "half.partial", os.O_RDWR | os.O_CREAT)
    yield {
        "dump": tmp_path / "dump",
        "partial": tmp_path / "half.partial",
        "target": None,
        "freezer": tmp_path / "cgroup",
        "locked": (fd,),
    }
    os.close(fd)


async def act(charge, record, tmp_path) -> None:
    guardian = Guardian(**charge, hold=record.to_json())
    await guardian.start(process.environment({"PATH": str(tmp_path / "no-programs")}))
    await guardian.act()
    assert (charge["freezer"] / "cgroup.freeze").read_text() == "0"
    assert not charge["partial"].exists()


async def test_a_hold_is_lifted_without_an_nft_program(network, charge, tmp_path):
    pod = network.pod(2)
    held = await hold.SourceHold.prepare(pod.path, lasting=True)
    try:
        await held.close()
        assert tables(pod.path) == [held.record.table]
        await act(charge, held.record, tmp_path)
        assert tables(pod.path) == []
    finally:
        await held.release()


async def test_a_hold_that_was_not_closed_yet(network, charge, tmp_path, capfd):
    pod = network.pod(2)
    held = await hold.SourceHold.prepare(pod.path, lasting=True)
    try:
        await act(charge, held.record, tmp_path)
    finally:
        await held.release()
    assert capfd.readouterr().err == ""


async def test_what_cannot_be_lifted_is_said(network, charge, tmp_path, capfd):
    record = hold.HoldRecord(netns="/proc/0/ns/net", family="netdev", table="crishim_hold_x")
    await act(charge, record, tmp_path)
    assert "crishim guardian: let_go: " in capfd.readouterr().err
    assert shutil.which("nft", path=str(tmp_path / "no-programs")) is None
