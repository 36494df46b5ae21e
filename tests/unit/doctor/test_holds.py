"""Which holds are a reason to be cut off, and which are not."""

from crishim.doctor import holds
from crishim.doctor.finding import Level
from crishim.network.hold import HoldRecord
from crishim.sandbox.heldrecord import CODEC
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
