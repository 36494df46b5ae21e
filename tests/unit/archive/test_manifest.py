import contextlib
import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crishim.archive import manifest as manifests
from crishim.errors import Corrupt, CrishimError, Precondition
from tests.unit.samples import manifest

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


def test_a_manifest_comes_back():
    assert manifests.decode(manifests.encode(manifest())) == manifest()


def test_volumes_of_the_image_are_for_readers_that_know_them():
    """A reader that leaves them out would restore an empty database."""
    made = dataclasses.replace(manifest(), image_volumes=("/data",))
    assert json.loads(manifests.encode(made))["version"] == 2
    assert manifests.decode(manifests.encode(made)) == made
    assert json.loads(manifests.encode(manifest()))["version"] == 1


def test_a_changed_value_is_noticed():
    data = manifests.encode(manifest()).replace(b"10.1.2.3", b"10.1.2.4")
    with pytest.raises(Corrupt, match="digest"):
        manifests.decode(data)


def test_a_newer_version_is_one_clear_refusal():
    document = json.loads(manifests.encode(manifest()))
    document["version"] = 3
    with pytest.raises(Precondition, match="format version 3"):
        manifests.decode(json.dumps(document).encode())


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("container", "name"), 7, "container.name is not a string"),
        (("container",), [], "container is not a JSON object"),
        (("statistics", "freeze_us"), -1, "freeze_us is not a whole number"),
        (("statistics", "freeze_us"), True, "freeze_us is not a whole number"),
        (("created_at_ns",), 1 << 64, "created_at_ns"),
        (("options", "source_running"), 0, "source_running is not true or false"),
        (("bind_mounts",), [{}], r"bind_mounts\[0\].destination is missing"),
        (("interfaces",), ["eth0"], r"interfaces\[0\] is not a JSON object"),
        (("entries",), {}, "entries is not a list"),
        (("container", "annotations"), {"a": 1}, "container.annotations.a is not a string"),
    ],
)
def test_wrong_values_are_named(path, value, message):
    with pytest.raises(Corrupt, match=message):
        manifests.decode(redone(path, value))


def test_annotations_are_missing_in_older_archives_and_of_any_length():
    path = ("container", "annotations")
    assert manifests.decode(redone(path, None)).container.annotations == {}
    long = {"note": "x" * 200_000}
    assert manifests.decode(redone(path, long)).container.annotations == long


@given(st.sampled_from(sorted(json.loads(manifests.encode(manifest()))["manifest"])), json_values)
def test_no_value_whatever_gets_another_error_than_ours(key, value):
    with contextlib.suppress(CrishimError):
        assert json.loads(manifests.encode(manifests.decode(redone((key,), value))))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data):
    with pytest.raises(CrishimError):
        manifests.decode(data)


def test_deeply_nested_json_is_refused():
    with pytest.raises(Corrupt):
        manifests.decode(b'{"a":' * 100_000)


def test_a_key_that_stands_twice_is_refused():
    with pytest.raises(Corrupt):
        manifests.decode(b'{"format":"crishim-checkpoint","format":"other"}')


def test_losses_are_missing_in_older_archives_and_of_kinds_that_newer_ones_know():
    assert manifests.decode(redone(("losses",), None)).losses == ()
    told = [{"kind": "soul", "pid": 0, "what": "the soul", "cure": ""}]
    assert [str(loss) for loss in manifests.decode(redone(("losses",), told)).losses] == [
        "the soul"
    ]


def redone(path: tuple[str, ...], value: object) -> bytes:
    """Encode a manifest with one value replaced, by None taken out, and a digest that fits."""
    document = json.loads(manifests.encode(manifest()))
    place = document["manifest"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    if value is None:
        del place[path[-1]]
    document["digest"] = manifests.digest_bytes(manifests._canonical(document["manifest"]))
    return json.dumps(document).encode()
