"""A pod's address in a new sandbox: the connection goes on, CNI finds what it made."""

import asyncio
import base64
import dataclasses
import json
import socket

import pytest

from crishim.errors import AlreadyExists
from crishim.ids import SandboxId
from crishim.network import address, hold
from tests.integration.network.conftest import CLIENT4, CLIENT6, Resets
from tests.integration.network.talk import Talk

SOURCE, TARGET = SandboxId("1" * 64), SandboxId("2" * 64)


def cache(root, sandbox, *, masquerade=False, mappings=()):
    """Write what libcni and host-local leave of an ADD."""
    plugin = {"type": "bridge", "ipMasq": masquerade, "ipam": {"type": "host-local"}}
    config = {"name": "net", "plugins": [plugin]}
    cached = {
        "kind": "cniCacheV1",
        "containerId": sandbox,
        "networkName": "net",
        "config": base64.b64encode(json.dumps(config).encode()).decode(),
        "capabilityArgs": {"portMappings": list(mappings)},
    }
    (root / "results").mkdir(exist_ok=True)
    (root / "results" / f"net-{sandbox}-eth0").write_text(json.dumps(cached))
    (root / "networks" / "net").mkdir(parents=True, exist_ok=True)


@pytest.fixture(params=["bridge", "ptp"])
def make_pod(request, network):
    return network.pod if request.param == "bridge" else network.routed_pod


@pytest.fixture(params=[4, 6], ids=["v4", "v6"])
def version(request):
    return request.param


async def prepared(pod, preserved, tmp_path, **how):
    cache(tmp_path, TARGET, **how)
    target = await hold.TargetHold.prepare(pod.path)
    record = await address.plan(
        target.link, preserved, sandbox=TARGET, former=SOURCE, cni_root=tmp_path
    )
    assert address.CODEC.decode(address.CODEC.encode(record)) == record
    return target, record


async def move(pod, preserved, tmp_path, **how):
    """Give a new pod the address, with no connections to keep."""
    target, record = await prepared(pod, preserved, tmp_path, **how)
    await target.close()
    await address.apply(record, target.link)
    await target.release(record.preserved)
    return record


def primary(state, version):
    return next(item for item in state.global_addresses if (":" in item) == (version == 6))


async def test_a_connection_moves_to_a_new_pod(network, make_pod, version, tmp_path):
    source, new = make_pod(2), make_pod(3)
    preserved = await address.read(source.path)
    held = await hold.SourceHold.prepare(source.path, lasting=True)
    target, record = await prepared(new, preserved, tmp_path)
    async with Talk(
        server=source, client=network.client, address=primary(preserved, version)
    ) as talk:
        with Resets(network.client) as resets:
            await target.close()
            talk.freeze()
            await held.close()
            connection = talk.dump()
            await held.leave_namespace()
            await address.apply(record, target.link)
            await asyncio.sleep(0.4)
            talk.restore(new, connection)
            frames = await held.close_catching()
            await target.release(record.preserved, earlier=frames)
            await talk.answered(100)
            gap_s = talk.longest_gap_s
    assert resets.seen == []
    assert resets.frames > 100
    # Left to retransmission the client would come back after 0.845 s.
    assert 0.35 < gap_s < 0.7


async def test_the_old_pod_may_be_gone_meanwhile(network, version, tmp_path):
    source = network.pod(2)
    preserved = await address.read(source.path)
    held = await hold.SourceHold.prepare(source.path, lasting=True)
    node = hold.NodeHold(preserved.global_addresses, sandbox="0123456789ab")
    async with Talk(
        server=source, client=network.client, address=primary(preserved, version)
    ) as talk:
        with Resets(network.client) as resets:
            talk.freeze()
            await held.close()
            connection = talk.dump()
            await held.leave_namespace()
            await node.close()
            network.remove(source)
            await asyncio.sleep(0.5)
            new = network.pod(3)
            target, record = await prepared(new, preserved, tmp_path)
            await target.close()
            await address.apply(record, target.link)
            await hold.remove(node.record)
            talk.restore(new, connection)
            await target.release(record.preserved, earlier=await held.close_catching())
            await talk.answered(100)
    assert resets.seen == []
    assert resets.frames > 100


async def test_put_back_leaves_what_cni_made(network, make_pod, tmp_path):
    source, new = make_pod(2), make_pod(3)
    preserved, before = await address.read(source.path), await address.read(new.path)
    host_before = network.routes()
    record = await move(new, preserved, tmp_path, masquerade=True)
    given = await address.read(new.path)
    assert set(preserved.global_addresses) <= set(given.global_addresses)
    assert given.mac == preserved.mac
    for _ in range(2):
        await address.put_back(record)
    after = await address.read(new.path)
    assert (after.mac, after.addresses, after.routes) == (
        before.mac, before.addresses, before.routes,
    )  # fmt: skip
    assert network.tables() == []
    assert list((tmp_path / "networks/net").iterdir()) == [tmp_path / "networks/net/lock"]
    assert len(network.routes()) <= len(host_before)


async def test_new_connections_leave_with_the_nodes_address(network, make_pod, version, tmp_path):
    source, new = make_pod(2), make_pod(3)
    preserved = await address.read(source.path)
    network.remove(source)
    await move(new, preserved, tmp_path, masquerade=True)
    outside = CLIENT4 if version == 4 else CLIENT6
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with (
        network.client.socket(family, socket.SOCK_STREAM) as listener,
        new.socket(family, socket.SOCK_STREAM) as caller,
    ):
        listener.bind(("", 8000))
        listener.listen()
        caller.settimeout(5)
        caller.connect((outside, 8000))
        assert caller.getsockname()[0] == primary(preserved, version)
        with listener.accept()[0] as connection:
            assert connection.getpeername()[0] == ("10.78.0.1" if version == 4 else "fd78::1")


async def test_host_port_leads_to_the_preserved_address(network, make_pod, version, tmp_path):
    source, new = make_pod(2), make_pod(3)
    preserved = await address.read(source.path)
    network.remove(source)
    mapping = {"HostPort": 9080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""}
    await move(new, preserved, tmp_path, mappings=[mapping])
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with (
        new.socket(family, socket.SOCK_STREAM) as listener,
        network.client.socket(family, socket.SOCK_STREAM) as caller,
    ):
        listener.bind((primary(preserved, version), 80))
        listener.listen()
        caller.settimeout(5)
        caller.connect(("10.78.0.1" if version == 4 else "fd78::1", 9080))
        with listener.accept()[0] as connection:
            assert connection.getpeername()[0] == (CLIENT4 if version == 4 else CLIENT6)


async def test_an_address_of_another_pod_is_refused(network, tmp_path):
    source, new = network.pod(2), network.pod(3)
    preserved = await address.read(source.path)
    target, _ = await prepared(new, preserved, tmp_path)
    try:
        with pytest.raises(AlreadyExists, match="another pod"):
            await address.check(preserved, {SOURCE: ["10.77.0.2"]}, link=target.link)
        with pytest.raises(AlreadyExists, match="02:00:00:00:77:02"):
            await address.check(preserved, {}, link=target.link)
        network.remove(source)
        await address.check(preserved, {}, link=target.link)
    finally:
        await target.abandon()


async def test_the_nodes_own_address_is_refused(network, tmp_path):
    source, new = network.pod(2), network.pod(3)
    preserved = await address.read(source.path)
    stolen = dataclasses.replace(
        preserved, addresses=(dataclasses.replace(preserved.addresses[0], address="10.78.0.1"),)
    )
    target, _ = await prepared(new, preserved, tmp_path)
    try:
        with pytest.raises(AlreadyExists, match="the node's own"):
            await address.check(stolen, {}, link=target.link)
    finally:
        await target.abandon()


async def test_a_reserved_address_is_refused(network, tmp_path):
    source, new = network.pod(2), network.pod(3)
    preserved = await address.read(source.path)
    target, record = await prepared(new, preserved, tmp_path)
    before = await address.read(new.path)
    (tmp_path / "networks/net/fd77::2").write_text("3" * 64 + "\r\neth0")
    try:
        with pytest.raises(AlreadyExists, match="reserved"):
            await address.apply(record, target.link)
    finally:
        await target.abandon()
    assert await address.read(new.path) == before
    assert not (tmp_path / "networks/net/10.77.0.2").exists()


async def test_a_reservation_goes_from_the_source_to_the_target(network, tmp_path):
    source, new = network.pod(2), network.pod(3)
    preserved = await address.read(source.path)
    network.remove(source)
    cache(tmp_path, TARGET)
    file = tmp_path / "networks/net/10.77.0.2"
    file.write_text(f"{SOURCE}\r\neth0")
    await move(new, preserved, tmp_path)
    assert file.read_bytes() == f"{TARGET}\r\neth0".encode()
