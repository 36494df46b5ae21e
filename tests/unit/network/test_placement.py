"""A preserved interface in a new place."""

import pytest

from crishim.errors import Precondition
from crishim.kernel.net.interface import Address, InterfaceState, Neighbour, Route
from crishim.network import keeping, placement

OLD_MAC, NEW_MAC, NODE_MAC = (f"02:00:00:00:00:0{digit}" for digit in "123")


def bridge_pod(last, mac, *, net="10.1.0", neighbours=()):
    return InterfaceState(
        name="eth0",
        mac=mac,
        mtu_bytes=1450 if mac == NEW_MAC else 1500,
        addresses=(Address(address=f"{net}.{last}", prefix_bits=24),),
        routes=(
            Route(destination="0.0.0.0/0", gateway=f"{net}.1"),
            Route(destination=f"{net}.0/24", source=f"{net}.{last}", scope=253),
        ),
        neighbours=neighbours,
    )


def node(*addresses, routes=()):
    return InterfaceState(
        name="cr0",
        mac=NODE_MAC,
        mtu_bytes=1500,
        addresses=tuple(Address(address=item, prefix_bits=24) for item in addresses),
        routes=routes,
    )


OWN = bridge_pod(9, NEW_MAC)


def test_on_the_same_network_everything_is_kept():
    old = bridge_pod(2, OLD_MAC, neighbours=(Neighbour(address="10.1.0.5", mac=OLD_MAC),))
    placed = placement.placed(old, own=OWN, host=node("10.1.0.1"))
    assert (placed.mac, placed.addresses, placed.routes) == (OLD_MAC, old.addresses, old.routes)


def test_the_mtu_is_the_new_networks():
    placed = placement.placed(bridge_pod(2, OLD_MAC), own=OWN, host=node("10.1.0.1"))
    assert placed.mtu_bytes == 1450


def test_the_nodes_end_has_its_present_mac():
    old = bridge_pod(2, OLD_MAC, neighbours=(Neighbour(address="10.1.0.1", mac=OLD_MAC),))
    placed = placement.placed(old, own=OWN, host=node("10.1.0.1"))
    assert placed.neighbours == (Neighbour(address="10.1.0.1", mac=NODE_MAC),)


def test_on_another_network_the_new_gateway_is_used_from_the_old_address():
    old = bridge_pod(2, OLD_MAC, net="10.2.0")
    placed = placement.placed(old, own=OWN, host=node("10.1.0.1"))
    assert placed.routes == (
        Route(destination="0.0.0.0/0", gateway="10.1.0.1"),
        Route(destination="10.1.0.0/24", source="10.2.0.2", scope=253),
    )


def test_an_address_of_the_bridges_subnet_needs_no_host_route():
    assert placement.host_routes(bridge_pod(2, OLD_MAC), own=OWN, host=node("10.1.0.1")) == ()


def test_an_address_of_another_subnet_gets_a_host_route():
    old = bridge_pod(2, OLD_MAC, net="10.2.0")
    routes = placement.host_routes(old, own=OWN, host=node("10.1.0.1"))
    assert routes == (Route(destination="10.2.0.2/32", scope=253),)


def test_a_routed_pods_host_route_is_made_like_cnis():
    pattern = Route(destination="10.1.0.9/32", scope=253, protocol=3, source="10.1.0.1")
    host = node("10.1.0.1", routes=(pattern,))
    (route,) = placement.host_routes(bridge_pod(2, OLD_MAC), own=OWN, host=host)
    assert route == Route(destination="10.1.0.2/32", scope=253, protocol=3, source="10.1.0.1")


def test_an_address_that_cni_gave_again_is_not_moved():
    old = bridge_pod(9, OLD_MAC)
    assert placement.moved(old, OWN) == ()
    assert placement.host_routes(old, own=OWN, host=node("10.1.0.1")) == ()


def test_an_address_of_another_nodes_subnet_is_astray():
    assert placement.astray(bridge_pod(2, OLD_MAC), OWN) == ()
    assert placement.astray(bridge_pod(2, OLD_MAC, net="10.2.0"), OWN) == ("10.2.0.2",)


def test_an_annotation_brings_no_address_of_another_subnet():
    elsewhere = bridge_pod(2, OLD_MAC, net="10.2.0")
    with pytest.raises(Precondition, match=r"10\.2\.0\.2 is outside") as caught:
        keeping.refuse_astray(elsewhere, OWN, keeping.Policy())
    assert "keep_astray = true" in caught.value.hint
    keeping.refuse_astray(elsewhere, OWN, keeping.Policy(astray=True))
    keeping.refuse_astray(bridge_pod(2, OLD_MAC), OWN, keeping.Policy())


def test_where_cni_names_no_subnet_no_address_is_astray():
    own = InterfaceState(
        name="eth0",
        mac=NEW_MAC,
        mtu_bytes=1500,
        addresses=(Address(address="10.1.0.9", prefix_bits=32),),
    )
    assert placement.astray(bridge_pod(2, OLD_MAC, net="10.2.0"), own) == ()
