"""Which holds are a reason to be cut off, and which are not."""

from dataclasses import replace

import pytest

from crishim.doctor import holds
from crishim.doctor.finding import Level
from crishim.kernel.net.interface import InterfaceState
from crishim.network import address
from crishim.network.hold import HoldRecord
from crishim.paths import Paths
from crishim.sandbox.heldrecord import CODEC, Waits
from tests.unit.samples import held_record

KNOWN = held_record(archive="/a.tar").pod_hold
STRAY = HoldRecord(netns="/run/netns/other", family="netdev", table="crishim_hold_2")
RECORDS = CODEC.encode(held_record(archive="/a.tar"))


def level(*found, records=RECORDS, working=False):
    named = [(f"pod {number}", hold) for number, hold in enumerate(found)]
    return holds.judge(named, records, working).level


def test_a_pod_that_a_checkpoint_stopped_is_cut_off_by_right():
    assert level() == level(KNOWN) == Level.OK


def test_a_hold_that_no_record_names_is_an_error():
    assert level(KNOWN, STRAY) == Level.ERROR
    assert level(STRAY, working=True) == Level.OK


def test_a_pod_that_is_being_restored_is_named_by_its_namespace():
    arriving = b'{"netns": "/run/netns/other", "released": false}'
    assert level(STRAY, records=arriving) == Level.OK


@pytest.fixture
def paths(tmp_path):
    paths = Paths(state=tmp_path / "state", run=tmp_path / "run")
    for directory in (paths.held, paths.sandboxes):
        directory.mkdir(parents=True)
    return paths


def test_the_hold_of_the_node_stands_by_right_while_connections_wait_there(paths):
    record = replace(held_record(archive="/a.tar"), waits=Waits.AT_NODE)
    paths.held_sandbox(record.sandbox).write_bytes(CODEC.encode(record))
    assert level(record.node_hold, records=holds._records(paths)[0]) == Level.OK
    over = replace(record, waits=Waits.NO_MORE)
    paths.held_sandbox(record.sandbox).write_bytes(CODEC.encode(over))
    assert level(record.node_hold, records=holds._records(paths)[0]) == Level.ERROR


@pytest.mark.parametrize("released", [False, True])
def test_a_pod_whose_address_has_arrived_is_cut_off_by_nobody(paths, released):
    own = InterfaceState(name="eth0", mac="02:00:00:00:00:01", mtu_bytes=1500)
    record = address.AddressRecord(
        sandbox="5b", netns=STRAY.netns, own=own, preserved=own, host_device="", released=released
    )
    paths.sandbox("5b").write_bytes(address.CODEC.encode(record))
    found = level(STRAY, records=holds._records(paths)[0])
    assert found == (Level.ERROR if released else Level.OK)


def test_a_record_that_says_nothing_to_us_names_what_its_text_does(paths):
    later = b'{"version": 9, "netns": "/run/netns/other"}'
    paths.held_sandbox("5a").write_bytes(later)
    assert level(STRAY, records=holds._records(paths)[0]) == Level.OK
