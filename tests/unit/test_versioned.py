"""Records on disk: an older version is read, a later one is neither guessed nor lost."""

import dataclasses
import json
from dataclasses import dataclass

import pytest

from crishim.errors import Corrupt
from crishim.ids import SandboxId
from crishim.kernel.net.interface import Address, InterfaceState, Route
from crishim.network import address
from crishim.restore import plans
from crishim.sandbox import heldrecord
from crishim.sandbox.recordfiles import RecordFiles
from crishim.versioned import Codec, UnknownVersion
from tests.unit import samples


@dataclass(frozen=True)
class Note:
    text: str


CODEC = Codec(what="a note", version=2, read=lambda item, _: Note(item.text("text")))

STATE = InterfaceState(
    name="eth0",
    mac="02:00:00:00:00:01",
    mtu_bytes=1500,
    addresses=(Address(address="10.0.0.3", prefix_bits=24),),
    routes=(Route(destination="0.0.0.0/0", gateway="10.0.0.1"),),
)
ADDRESS = address.AddressRecord(
    sandbox=SandboxId("5a"),
    netns="/run/netns/x",
    own=STATE,
    preserved=STATE,
    host_device="br0",
    host_routes=(Route(destination="10.0.0.2/32"),),
)
RECORDS = pytest.mark.parametrize(
    ("codec", "record"),
    [
        (heldrecord.CODEC, samples.held_record(archive="/a.tar")),
        (address.CODEC, ADDRESS),
        (plans._CODEC, samples.plan()),
    ],
    ids=["stopped container", "address", "plan"],
)


@pytest.mark.parametrize("data", [b'{"text": "old"}', b'{"version": 1, "text": "old"}'])
def test_what_has_no_version_is_the_first(data):
    assert CODEC.decode(data) == Note("old")


def test_what_is_written_says_its_version():
    assert json.loads(CODEC.encode(Note("new"))) == {"version": 2, "text": "new"}


@pytest.mark.parametrize("version", [3, 0, 1 << 62])
def test_a_later_version_is_not_guessed(version):
    data = json.dumps({"version": version, "text": "understood, it seems"}).encode()
    with pytest.raises(UnknownVersion, match=rf"a note has version {version}, .* knows 2") as e:
        CODEC.decode(data)
    assert "run the version of crishim that wrote it" in e.value.hint


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{", b'{"version": "2", "text": "x"}', b'{"version": true, "text": "x"}',
     b'{"version": -1, "text": "x"}', b'{"version": 2}', b'{"version": 2, "text": 3}'],
)  # fmt: skip
def test_what_is_damaged_is_no_later_version(data):
    with pytest.raises(Corrupt) as e:
        CODEC.decode(data)
    assert not isinstance(e.value, UnknownVersion)


@RECORDS
def test_each_record_goes_there_and_back(codec, record):
    assert codec.decode(codec.encode(record)) == record


@RECORDS
def test_each_record_of_before_is_read_and_a_later_one_refused(codec, record):
    before = json.loads(codec.encode(record))
    if codec.version == 1:  # what the first version of others was, their own tests have
        del before["version"]
    assert codec.decode(json.dumps(before).encode()) == record
    later = json.dumps({**before, "version": 9}).encode()
    with pytest.raises(UnknownVersion):
        codec.decode(later)


@RECORDS
def test_no_field_is_guessed(codec, record):
    """Each one that was there from the beginning is asked for, and its type."""
    written = json.loads(codec.encode(record))
    for key in written.keys() - {"version", "released", "losses"}:
        for wrong in ({}, {key: [[]]}, {key: {"x": 1}}):
            rest = {k: v for k, v in written.items() if k != key}
            data = json.dumps({**rest, **wrong}).encode()
            with pytest.raises(Corrupt):
                codec.decode(data)


def test_a_record_of_a_later_version_keeps_its_name_and_is_said(tmp_path, caplog):
    """Whoever goes back to the newer crishim finds it; until then nobody acts in its sandbox."""
    files = RecordFiles(tmp_path, lambda sandbox: tmp_path / f"{sandbox}.json", codec=CODEC)
    later, name = b'{"version": 3, "text": "x"}', tmp_path / "5a.json"
    name.write_bytes(later)
    (tmp_path / "5b.json").write_bytes(CODEC.encode(Note("mine")))
    assert files.read() == {"5b": Note("mine")}
    assert files.unreadable == {"5a"} and files.unread() == [name]
    assert "stays for the crishim that wrote it: a note has version 3" in caplog.text
    files.keep_unreadable(live=())
    assert files.read_refused() == {}
    assert files.unreadable == {"5a"} and name.read_bytes() == later
    newer = RecordFiles(
        tmp_path,
        lambda sandbox: tmp_path / f"{sandbox}.json",
        codec=dataclasses.replace(CODEC, version=3),
    )
    assert newer.read()["5a"] == Note("x") and newer.unreadable == set()
