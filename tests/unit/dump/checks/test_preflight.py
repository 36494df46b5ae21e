"""What the preflight refuses; the looking itself is tested on real containers."""

import os
import resource
from pathlib import Path
from types import SimpleNamespace

import pytest

from crishim.containerd.records import Mount
from crishim.dump.checks import endpoints, preflight, space
from crishim.dump.dumper import Dumper
from crishim.dump.request import DumpRequest
from crishim.errors import NoSpace, NotFound, Precondition, Unsupported
from crishim.kernel import procs
from crishim.kernel.mounts import parse_mountinfo
from crishim.kernel.net.sockdiag import InetSocket, TcpState, UnixSocket
from crishim.modes import TcpMode
from crishim.network import cni
from crishim.network.keeping import Policy
from crishim.network.podnetwork import PodNetwork

STREAM, DATAGRAM = 1, 2
TABLE = b"""\
10 1 0:30 / / rw - overlay overlay rw,upperdir=/u,workdir=/w
11 10 0:31 / /proc rw - proc proc rw
12 10 8:1 /volumes/a /data rw - ext4 /dev/sda1 rw
13 10 0:40 / /mnt/a rw - ramfs none rw
14 10 8:1 /other /mnt/b rw - ext4 /dev/sda1 rw
15 10 0:41 / /mnt/c rw - fuse.sshfs host: rw
16 10 0:42 / /shared rw - nfs4 server:/x rw
17 10 0:43 / /merged rw - overlay overlay rw,lowerdir=/l,upperdir=/u2,workdir=/w2
"""


def tcp(inode: int, remote_port: int = 40000) -> InetSocket:
    return InetSocket(
        version=4,
        state=TcpState.ESTABLISHED,
        local="10.0.0.1",
        local_port=9000,
        remote="10.0.0.9",
        remote_port=remote_port,
        receive_queue=0,
        send_queue=0,
        inode=inode,
    )


def unix(inode: int, peer: int, *, kind: int = STREAM, name: str = "") -> UnixSocket:
    return UnixSocket(kind=kind, state=1, inode=inode, peer_inode=peer, name=name)


def listing(*, mptcp=(), connected=(), bound=(), unix=()) -> endpoints.Listing:
    return endpoints.Listing(mptcp=mptcp, connected=connected, bound=bound, unix=unix)


def test_mounts_that_criu_can_neither_dump_nor_find_again() -> None:
    spec = {"mounts": [{"destination": "/data"}, {"destination": "/shared"}]}
    found = preflight.undumpable(parse_mountinfo(TABLE), spec)
    assert found == ["/mnt/a (ramfs)", "/mnt/c (fuse.sshfs)", "/merged (overlay)"]


def test_an_mptcp_socket_is_named_by_its_program() -> None:
    with pytest.raises(Unsupported, match=r"^server has an MPTCP socket at 10\.0\.0\.1:9000") as e:
        endpoints.refuse_mptcp(listing(mptcp=[tcp(7)]), {7}, lambda inode: "server")
    assert "net.mptcp.enabled=0" in e.value.hint
    assert "GODEBUG=multipathtcp=0" in e.value.hint


def test_sockets_of_other_containers_are_let_pass() -> None:
    others = listing(mptcp=[tcp(7)], connected=[tcp(8)], unix=[unix(9, 10)])
    endpoints.refuse_mptcp(others, {1}, str)
    endpoints.refuse_connections(others, {1}, tcp="refuse", host_network=True)
    endpoints.refuse_halves(others, {1}, str)


@pytest.mark.parametrize(("mode", "host"), [("established", False), ("close", True)])
def test_connections_that_can_be_dealt_with(mode: str, host: bool) -> None:
    found = listing(connected=[tcp(7)])
    endpoints.refuse_connections(found, {7}, tcp=mode, host_network=host)


def test_unwanted_connections_are_named() -> None:
    many = listing(connected=[tcp(7, port) for port in range(1, 6)])
    with pytest.raises(Precondition) as e:
        endpoints.refuse_connections(many, {7}, tcp="refuse", host_network=False)
    assert e.value.brief.endswith(
        "10.0.0.1:9000 to 10.0.0.9:1, 10.0.0.1:9000 to 10.0.0.9:2, "
        "10.0.0.1:9000 to 10.0.0.9:3 and 2 more"
    )


def test_connections_on_the_node_s_network_cannot_move() -> None:
    with pytest.raises(Unsupported, match=r"node's network.*10\.0\.0\.9:40000") as e:
        endpoints.refuse_connections(
            listing(connected=[tcp(7)]), {7}, tcp="established", host_network=True
        )
    assert "--tcp close" in e.value.hint


def asked(*, stop: bool = False, mode: str = "established") -> DumpRequest:
    return DumpRequest(container="c", stop=stop, tcp=TcpMode(mode))


def pod_network(*, holdable: bool = True, others: dict[str, str] | None = None) -> PodNetwork:
    kind = "veth" if holdable else "macvlan"
    return PodNetwork(kind=kind, holdable=holdable, others=others or {})


@pytest.mark.parametrize(
    ("found", "request_"),
    [
        (listing(connected=[tcp(7)]), asked()),
        (listing(bound=[tcp(7)]), asked(stop=True)),
    ],
)
def test_connections_without_an_end_on_the_node_cannot_be_kept(found, request_) -> None:
    with pytest.raises(Unsupported, match="eth0 is macvlan and has no end on the node") as e:
        endpoints.refuse_unheld(found, {7}, request_, pod_network(holdable=False))
    assert "--tcp close" in e.value.hint
    endpoints.refuse_unheld(found, {7}, request_, pod_network())
    endpoints.refuse_unheld(found, {8}, request_, pod_network(holdable=False))


@pytest.mark.parametrize(
    ("found", "request_"),
    [
        (listing(bound=[tcp(7)]), asked()),
        (listing(connected=[tcp(7)]), asked(mode="close")),
        (listing(bound=[tcp(7)]), asked(stop=True, mode="close")),
    ],
)
def test_without_a_veth_what_keeps_nothing_is_let_pass(found, request_) -> None:
    endpoints.refuse_unheld(found, {7}, request_, pod_network(holdable=False))


NET1 = pod_network(others={"10.0.0.1": "net1"})


@pytest.mark.parametrize(
    ("found", "request_", "cure"),
    [
        (listing(connected=[tcp(7)]), asked(), "--tcp close"),
        (listing(connected=[tcp(7)]), asked(stop=True), "--tcp close"),
        (listing(bound=[tcp(7)]), asked(), "--tcp close and without stopping it"),
        (listing(bound=[tcp(7)]), asked(stop=True, mode="close"), "without stopping it"),
    ],
)
def test_a_socket_with_an_address_that_no_new_pod_has_is_named(found, request_, cure) -> None:
    with pytest.raises(Unsupported, match=r"^server has a socket at 10\.0\.0\.1:9000.*net1") as e:
        endpoints.refuse_other_interfaces(found, {7}, request_, NET1, lambda inode: "server")
    assert cure in e.value.hint


@pytest.mark.parametrize(
    ("found", "request_", "network"),
    [
        (listing(connected=[tcp(7)], bound=[tcp(7)]), asked(stop=True), pod_network()),
        (listing(connected=[tcp(8)], bound=[tcp(8)]), asked(stop=True), NET1),
        (listing(connected=[tcp(7)]), asked(stop=True, mode="close"), NET1),
        (listing(bound=[tcp(7)]), asked(mode="close"), NET1),
    ],
)
def test_sockets_of_eth0_of_others_and_closed_ones_are_let_pass(found, request_, network) -> None:
    endpoints.refuse_other_interfaces(found, {7}, request_, network, str)


async def test_no_container_is_stopped_for_an_address_that_nobody_could_keep(monkeypatch) -> None:
    calico = cni.SandboxNetwork(name="k8s-pod-network", plugins=("calico",), ipam="calico-ipam")
    monkeypatch.setattr(cni, "sandbox_network", lambda sandbox: calico)
    source = SimpleNamespace(sandbox=SimpleNamespace(id="s", host_network=False))
    with pytest.raises(Precondition, match=r"led by calico \(network k8s-pod-network") as e:
        await preflight.network(source, asked(stop=True), Policy())
    assert "--tcp close" in e.value.hint
    await preflight.network(source, asked(stop=True), Policy(unmanaged=True))
    await preflight.network(source, asked(stop=True, mode="close"), Policy())
    await preflight.network(source, asked(), Policy())


def test_half_of_a_unix_connection_names_both_ends_and_the_path() -> None:
    found = listing(unix=[unix(7, 8), unix(8, 7, name="/run/db.sock")])
    with pytest.raises(Precondition) as e:
        endpoints.refuse_halves(found, {7}, {7: "client", 8: "database"}.__getitem__)
    assert str(e.value).startswith(
        "client has a UNIX connection to database, which lies outside the container: /run/db.sock"
    )


def test_unix_sockets_that_can_be_kept() -> None:
    whole = [unix(7, 8), unix(8, 7), unix(9, 0, name="/run/listener"), unix(10, 99, kind=DATAGRAM)]
    endpoints.refuse_halves(listing(unix=whole), {7, 8, 9, 10}, str)


def test_io_uring_and_terminals_name_the_program() -> None:
    me = os.getpid()
    ring = procs.OpenFiles(sockets=frozenset(), terminals={}, io_uring=(me,))
    with pytest.raises(Unsupported, match=rf"process {me} \(.*\) uses io_uring") as e:
        preflight._files(ring)
    assert "seccompProfile RuntimeDefault" in e.value.hint
    assert "UV_USE_IO_URING=0" in e.value.hint
    terminal = procs.OpenFiles(sockets=frozenset(), terminals={"/dev/pts/3": me}, io_uring=())
    with pytest.raises(Precondition, match=rf"process {me} \(.*\) has the terminal /dev/pts/3"):
        preflight._files(terminal)


def test_a_process_whose_limits_are_out_of_reach_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    preflight._foreign_users([os.getpid()])

    def denied(pid: int, limit: int) -> None:
        raise ProcessLookupError if pid == 1 else PermissionError

    monkeypatch.setattr(resource, "prlimit", denied)
    preflight._foreign_users([1])
    with pytest.raises(Unsupported, match=rf"^process {os.getpid()} .*CAP_SYS_RESOURCE"):
        preflight._foreign_users([1, os.getpid()])


def source(layer: Path, log: Path | None = None) -> SimpleNamespace:
    return SimpleNamespace(
        layer=SimpleNamespace(upper=layer),
        log=log,
        container=SimpleNamespace(id="c1", spec={}),
    )


@pytest.fixture
def free_mb(monkeypatch: pytest.MonkeyPatch):
    """Let every file system have so much space left."""

    def limit(megabytes: int) -> None:
        left = SimpleNamespace(f_bavail=megabytes * 1000, f_frsize=1000)
        monkeypatch.setattr(os, "statvfs", lambda path: left)

    return limit


def test_memory_layer_and_log_must_fit(tmp_path: Path, free_mb) -> None:
    layer, log = tmp_path / "layer", tmp_path / "log"
    (layer / "deep").mkdir(parents=True)
    (layer / "deep/file").write_bytes(bytes(3_000_000))
    log.write_bytes(bytes(2_000_000))
    free_mb(7)
    space.check(source(layer, log), [], tmp_path / "x.tar")
    free_mb(5)
    with pytest.raises(NoSpace, match=rf"more than 6 MB and {tmp_path} has 5 MB left"):
        space.check(source(layer, log), [], tmp_path / "x.tar")
    free_mb(2)
    with pytest.raises(NoSpace):
        space.check(source(tmp_path, log), [], tmp_path / "x.tar")


def test_what_a_layer_links_to_does_not_count(tmp_path: Path, free_mb) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(bytes(4_000_000))
    layer = tmp_path / "layer"
    layer.mkdir()
    (layer / "link").symlink_to(outside)
    free_mb(2)
    space.check(source(layer), [], tmp_path / "x.tar")


def test_no_directory_for_the_archive(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"none/x\.tar"):
        space.check(source(tmp_path), [], tmp_path / "none" / "x.tar")


@pytest.mark.parametrize("mounts", [[], ["erofs", "overlay"], ["bind"], ["overlay"]])
async def test_no_container_is_stopped_whose_snapshot_no_restore_could_fill(mounts) -> None:
    """Its root is an overlay all the same: the snapshotter makes it of several mounts."""

    async def answer(**_: str) -> list[Mount]:
        options = ("upperdir=/u", "workdir=/w", "lowerdir=/l")
        return [Mount(type=kind, source="", options=options) for kind in mounts]

    dumper = Dumper(
        resolver=None, records=SimpleNamespace(mounts=answer), store=None,
        turns=None, targets=None, pins=None, context=None,
    )  # fmt: skip
    container = SimpleNamespace(snapshotter="erofs", snapshot_key="c")
    asking = dumper._refuse_unrestorable(SimpleNamespace(container=container))
    if mounts == ["overlay"]:
        await asking
        return
    with pytest.raises(Unsupported, match="snapshot is not an overlay") as e:
        await asking
    assert "overlayfs snapshotter" in e.value.hint


def test_what_an_exec_has_open_is_not_the_containers(monkeypatch):
    """Only what the container's first process has started is looked at while an exec runs."""
    parents = {10: 1, 11: 10, 12: 11, 20: 1, 21: 20, 30: 0}
    monkeypatch.setattr(preflight.procs, "parent", parents.get)
    source = SimpleNamespace(container=SimpleNamespace(pid=10))
    assert preflight.tree(source, [30, 21, 12, 20, 11, 10]) == [12, 11, 10]
