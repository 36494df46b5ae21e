"""The state of an interface on its way through an archive that anybody may have written."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crishim.errors import Corrupt, Unsupported
from crishim.kernel.net.interface import Address, InterfaceState, Neighbour, Route

STATE = InterfaceState(
    name="eth0",
    mac="02:00:00:00:00:07",
    mtu_bytes=1500,
    addresses=(
        Address(address="10.0.0.7", prefix_bits=24),
        Address(address="fd00::7", prefix_bits=64),
        Address(address="fe80::7", prefix_bits=64, scope=253),
    ),
    routes=(
        Route(destination="0.0.0.0/0", gateway="10.0.0.1"),
        Route(destination="fd00::/64", metric=256, protocol=2),
    ),
    neighbours=(Neighbour(address="10.0.0.1", mac="02:00:00:00:00:01"),),
)


def test_a_state_survives_json():
    assert InterfaceState.from_json(json.loads(json.dumps(STATE.to_json()))) == STATE


def test_what_is_read_of_a_crowded_segment_can_be_read_back():
    """On a flat layer 2 every other pod of the cluster may be a neighbour."""
    crowd = tuple(
        Neighbour(address=f"10.1.{n >> 8}.{n & 255}", mac=STATE.mac, permanent=n == 1999)
        for n in range(2000)
    )
    state = dataclasses.replace(STATE, neighbours=crowd).bounded()
    assert crowd[1999] in state.neighbours
    assert len(state.neighbours) == 1024
    assert InterfaceState.from_json(json.loads(json.dumps(state.to_json()))) == state


def test_routes_that_could_not_be_read_back_are_refused_at_once():
    routes = tuple(Route(destination=f"10.{n >> 8}.{n & 255}.0/24") for n in range(1025))
    with pytest.raises(Unsupported, match="1025 routes"):
        dataclasses.replace(STATE, routes=routes).bounded()


def test_link_local_addresses_are_not_global():
    assert STATE.global_addresses == ("10.0.0.7", "fd00::7")


def changed(path, value):
    data = json.loads(json.dumps(STATE.to_json()))
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return data


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["name"], "../../eth0"),
        (["name"], "eth0; reboot"),
        (["mac"], "02:00:00:00:00"),
        (["mac"], None),
        (["mtu_bytes"], 1),
        (["mtu_bytes"], True),
        (["mtu_bytes"], 1e3),
        (["addresses"], "10.0.0.7"),
        (["addresses"], [1]),
        (["addresses", 0, "address"], "10.0.0.256"),
        (["addresses", 0, "address"], "127.0.0.1"),
        (["addresses", 0, "address"], "224.0.0.1"),
        (["addresses", 0, "address"], "0.0.0.0"),
        (["addresses", 0, "address"], "::"),
        (["addresses", 2, "address"], "fe80::7%eth0"),
        (["addresses", 0, "prefix_bits"], 33),
        (["addresses", 0, "prefix_bits"], -1),
        (["addresses", 0, "more"], 1),
        (["addresses"], [STATE.to_json()["addresses"][0]] * 1025),
        (["routes", 0, "destination"], "10.0.0.1/24"),
        (["routes", 0, "destination"], 167772160),
        (["routes", 0, "gateway"], "fd00::1"),
        (["routes", 0, "source"], "; drop"),
        (["routes", 0, "metric"], 1 << 32),
        (["neighbours", 0, "mac"], "zz:00:00:00:00:01"),
        (["neighbours", 0], {}),
        (["extra"], 1),
    ],
)
def test_a_bad_field_is_refused(path, value):
    with pytest.raises(Corrupt):
        InterfaceState.from_json(changed(path, value))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)
PATHS = st.sampled_from(
    [["name"], ["mac"], ["mtu_bytes"], ["addresses"], ["addresses", 0], ["routes"], ["routes", 0]]
    + [["routes", 0, key] for key in ("destination", "gateway", "source", "scope", "metric")]
    + [["addresses", 0, key] for key in ("address", "prefix_bits", "scope")]
    + [["neighbours", 0, key] for key in ("address", "mac")]
)


@given(path=PATHS, value=JSON)
def test_whatever_is_written_there_is_either_a_state_or_corrupt(path, value):
    try:
        state = InterfaceState.from_json(changed(path, value))
    except Corrupt:
        return
    assert InterfaceState.from_json(state.to_json()) == state
