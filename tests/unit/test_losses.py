import json

from crishim import losses
from crishim.archive import manifest as manifests
from crishim.flow.phases import Phases
from crishim.losses import Kind, Loss
from tests.unit.samples import manifest


def loss(what: str, kind: Kind = Kind.SOCKET_QUEUE) -> Loss:
    return Loss(kind=kind, what=what)


def test_a_thing_is_told_once():
    phases = Phases()
    phases.lose([loss("a queue"), loss("a lock", Kind.FILE_LOCK)])
    phases.lose([loss("a queue")])
    assert [item.what for item in phases.losses] == ["a queue", "a lock"]


def test_many_of_a_kind_are_counted():
    found = losses.bounded(loss(f"queue {number}") for number in range(1000))
    assert len(found) < 20
    assert found[-1].what == "984 more of the kind socket-queue"


def test_a_strangers_name_steers_no_terminal_and_breaks_no_archive():
    name = "\x1b[2J\udcff" + "x" * 5000
    (found,) = losses.bounded([loss(name)])
    assert found.what.isprintable() and len(found.what) < 1000
    encoded = manifests.encode(manifest())
    body = json.loads(encoded)["manifest"]
    assert body["losses"][0]["kind"] == "socket-queue"
    assert manifests.decode(encoded).losses == manifest().losses


def test_the_log_names_whose_they_are(caplog):
    losses.log([Loss(kind=Kind.OTHER, what="the soul", cure="pray")], subject="checkpoint of 4f")
    assert caplog.messages == ["checkpoint of 4f: not kept: the soul (pray)"]
