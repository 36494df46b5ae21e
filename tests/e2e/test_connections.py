"""Connections of every kind through checkpoint with stop, pod removed, new pod restored.

The client has no reconnect code and watches the wire: nothing lost, nothing repeated, no RST, FIN
or ICMP error. Most tests use the run's lab; address families, CNI plugins and masquerading are
tried on two labs of their own.
"""

import contextlib
import os
import subprocess

import pytest

from tests.e2e import conftest, leaks, nodes
from tests.e2e.moves import (
    ARCHIVE,
    assert_unharmed,
    checkpoint,
    eventually,
    move,
    times_sent_again,
)

VARIANTS = {
    "bridge": ("--dual-stack", "--cni", "bridge"),
    "ptp": ("--dual-stack", "--cni", "ptp", "--no-masq"),
}
OUTSIDE = {4: "192.168.50.1", 6: "fd50::1"}
NODE1 = {4: "192.168.50.11", 6: "fd50::11"}
HOST_PORT = 18080
ECHO = """
import socket, sys, threading
server = socket.create_server((sys.argv[1], 7000), family=socket.AF_INET6
    if ":" in sys.argv[1] else socket.AF_INET)
print("listening", flush=True)
def serve(connection, peer):
    for line in connection.makefile():
        connection.sendall(f"{peer} {line}".encode())
while True:
    connection, (peer, *_) = server.accept()
    threading.Thread(target=serve, args=(connection, peer), daemon=True).start()
"""


@pytest.fixture(scope="module", params=VARIANTS)
def variant_up(request, tmp_path_factory):
    """A lab of its own with both address families; its name."""
    name = f"{os.environ.get('CRISHIM_LAB_NAME', 'lab')}-{request.param}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRISHIM_LAB_NAME", name)
        nodes.lab("up", *VARIANTS[request.param], timeout_s=1200)
        conftest.add_workload(nodes.lab, tmp_path_factory.mktemp("image"))
        nodes.Node("node1").pod().remove()  # the first one makes a cgroup that stays
    yield name, request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRISHIM_LAB_NAME", name)
        nodes.lab("down")


@pytest.fixture
def variant(variant_up, monkeypatch):
    """Its node, clean before and after the test, and which variant it is."""
    name, kind = variant_up
    monkeypatch.setenv("CRISHIM_LAB_NAME", name)
    node = nodes.Node("node1")
    before = leaks.snapshot(node)
    yield node, kind
    node.clean()
    assert not leaks.wait_clean(node, before)


def address_of(pod: nodes.Pod, version: int) -> str:
    """Return the pod's address of a family, as CRI reports it."""
    network = pod.status()["status"]["network"]
    found = [network["ip"], *(item["ip"] for item in network.get("additionalIps", []))]
    return next(item for item in found if (":" in item) == (version == 6))


@pytest.fixture
def outside():
    """Echo servers in the lab's network; they say who calls."""
    servers = []
    for address in OUTSIDE.values():
        argv = [str(nodes.LAB), "net", "--", "python3", "-c", ECHO, address]
        server = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        servers.append(server)
        assert server.stdout.readline() == "listening\n"
    yield
    for server in servers:
        server.terminate()
        server.wait(10)
        server.stdout.close()


@pytest.mark.parametrize("version", [4, 6])
def test_main_job(variant, version):
    """Bridge and ptp, IPv4 and IPv6: the client sees a pause and nothing else."""
    node, _ = variant
    pod = node.pod()
    container = pod.run("-memory-mb", "20")
    address = address_of(pod, version)
    client = nodes.Client(address)
    client.wait_answers(50)
    pod, _ = move(pod, container)
    client.wait_answers(200)
    assert_unharmed(client.close())
    assert address_of(pod, version) == address
    assert nodes.ask(address, "count 1").startswith("count 1 ")


@pytest.mark.parametrize("version", [4, 6])
def test_connections_out_and_host_ports(variant, outside, version):
    """What is open goes on, and new ones work, out of the pod and in by a port of the node.

    The node masquerades on one variant and does not on the other, before and after alike.
    """
    node, kind = variant
    config = {
        "port_mappings": [{"protocol": 0, "container_port": 9000, "host_port": HOST_PORT}],
        "linux": {},
    }
    pod = node.pod(**config)
    container = pod.run()
    address = address_of(pod, version)
    caller = NODE1[version] if kind == "bridge" else address
    server = f"[{OUTSIDE[version]}]:7000"
    client = nodes.Client(NODE1[version], port=HOST_PORT)
    assert nodes.ask(address, f"dial {server}").startswith("local ")
    assert nodes.ask(address, "say before it") == f"heard {caller} before it"
    client.wait_answers(50)
    move(pod, container, **config)
    client.wait_answers(50)
    assert nodes.ask(address, "say after it") == f"heard {caller} after it"
    assert nodes.ask(address, f"dial {server}").startswith("local ")
    assert nodes.ask(address, "say anew from it") == f"heard {caller} anew from it"
    assert_unharmed(client.close())
    assert nodes.ask(NODE1[version], "count 1", port=HOST_PORT).startswith("count 1 ")


def test_a_long_wait_for_the_restore(variant):
    """A node that soon forgets hardware addresses calls nobody unreachable while they wait."""
    node, _ = variant
    pod = node.pod()
    container = pod.run()
    addresses = [address_of(pod, version) for version in (4, 6)]
    clients = [nodes.Client(address) for address in addresses]
    for client in clients:
        client.wait_answers(50)
    with hasty_neighbours(node, addresses[0]):
        checkpoint(node, container, "--stop")
        # By the fourth time the node would have asked for the pod in vain, and given up.
        eventually(lambda: min(map(times_sent_again, addresses)) >= 4)
        assert not any(map(reaches, addresses))
        pod.remove()
        assert not any(map(reaches, addresses))
        revived = node.pod().create(ARCHIVE)
        node.crictl("start", revived)
        node.exec("rm", ARCHIVE)
        for client in clients:
            client.wait_answers(50)
    reports = [client.close() for client in clients]
    assert [report["errors"] for report in reports] == [[], []]
    assert [report["wire"] for report in reports] == [[], []]


@contextlib.contextmanager
def hasty_neighbours(node: nodes.Node, address: str):
    """Let the node forget in seconds what it knows of an address's link, and ask quickly."""
    device = node.exec("ip", "-o", "route", "get", address).split(" dev ")[1].split()[0]
    keys = "base_reachable_time_ms delay_first_probe_time retrans_time_ms"
    places = " ".join(f"/proc/sys/net/ipv{v}/neigh/{device}" for v in (4, 6))
    was = node.sh(f"for d in {places}; do for k in {keys}; do echo $d/$k $(cat $d/$k); done; done")
    quick = dict(zip(keys.split(), ("500", "1", "100"), strict=True))
    node.sh(f"for d in {places}; do {set_all(quick)} done")
    try:
        yield
    finally:  # the link of a pod that was removed is gone
        lines = (line.split() for line in was.splitlines())
        node.sh("".join(f"[ ! -e {path} ] || echo {value} > {path}; " for path, value in lines))


def set_all(values: dict[str, str]) -> str:
    return "".join(f"echo {value} > $d/{key}; " for key, value in values.items())


def reaches(address: str) -> bool:
    """Whether a new connection can be made; one that waits is not told that it cannot."""
    code = (
        "import socket,sys\n"
        "try: socket.create_connection((sys.argv[1], 9000), 1)\n"
        "except TimeoutError: print('waits')"
    )
    return nodes.lab("net", "--", "python3", "-c", code, address) != "waits\n"


def test_twenty_times_in_a_row(node):
    """One connection through twenty moves, and nothing is left of any of them."""
    pod = node.pod()
    container = pod.run("-memory-mb", "5")
    address = pod.address
    client = nodes.Client(address)
    client.wait_answers(20)
    pod, container = move(pod, container)
    client.wait_answers(20)
    before = leaks.snapshot(node)
    for _ in range(20):
        pod, container = move(pod, container)
        client.wait_answers(20)
    assert_unharmed(client.close())
    assert pod.address == address
    after = leaks.wait_clean(node, before)
    # One container takes another's place: what bears its id has another name, not another number.
    for kind, items in before.items():
        if kind != "descriptors":
            assert len(leaks.snapshot(node)[kind]) <= len(items), (kind, after.get(kind))
    assert "descriptors" not in after


def test_a_thousand_connections(node):
    """A thousand at once, all of them busy."""
    pod = node.pod()
    container = pod.run()
    client = nodes.Client(pod.address, "--connections", "1000", "--period-ms", "500")
    client.wait_answers(2000)
    move(pod, container)
    client.wait_answers(3000, within_s=60)
    report = client.close()
    assert report["connections"] == 1000
    assert report["least"] >= 2
    assert_unharmed(report)


def test_data_in_flight_both_ways(node):
    """Full buffers on both sides: every byte arrives once and in order."""
    pod = node.pod()
    container = pod.run()
    client = nodes.Client(pod.address, "--kind", "stream", "--connections", "3")
    client.wait_answers(200)
    move(pod, container)
    client.wait_answers(500)
    report = client.close()
    assert report["errors"] == []
    assert report["wire"] == []


def test_half_closed_connections(node):
    """Either side may have ended its own direction; the other one goes on."""
    pod = node.pod()
    container = pod.run()
    address = pod.address
    kinds = {kind: nodes.Client(address, "--kind", kind) for kind in ("trickle", "hush")}
    for client in kinds.values():
        client.wait_answers(50)
    move(pod, container)
    for client in kinds.values():
        client.wait_answers(100)
    reports = {kind: client.close() for kind, client in kinds.items()}
    for report in reports.values():
        assert report["errors"] == []
        assert report["wire"] == []
    sent = reports["hush"]["answered"]
    eventually(lambda: nodes.ask(address, "hushed") == f"hushed {sent}", outcome=True)


def test_connections_that_wait_to_be_accepted(node):
    """A listener whose process accepts slowly is emptied first; nobody in its queue is lost."""
    pod = node.pod()
    container = pod.run("-slow-port", "9100", "-accept-every", "20ms")
    client = nodes.Client(pod.address, "--connections", "60", "--period-ms", "50", port=9100)
    assert client.report()["least"] == 0, "all were accepted before the checkpoint"
    move(pod, container)
    client.wait_answers(600)
    report = client.close()
    assert report["least"] > 0
    assert_unharmed(report)


def test_a_process_that_does_not_accept(node):
    """Connections that nobody accepts in time are one clear error, and the container runs on."""
    pod = node.pod()
    container = pod.run("-slow-port", "9100", "-accept-every", "4s")
    client = nodes.Client(pod.address, "--connections", "3", port=9100)
    with pytest.raises(nodes.CommandFailed) as failed:
        checkpoint(node, container, "--stop")
    assert "waiting to be accepted" in failed.value.stderr
    assert "9100" in failed.value.stderr
    client.wait_answers(100)
    assert nodes.ask(pod.address, "count 1").startswith("count 1 ")
    eventually(lambda: client.report()["least"] > 0)
    report = client.close()
    assert report["errors"] == []
    assert report["wire"] == []


def test_a_storm_of_new_connections(node):
    """Connections that begin while the pod is away are made when it is back."""
    pod = node.pod()
    container = pod.run()
    client = nodes.Client(pod.address, "--kind", "storm", "--connections", "8")
    client.wait_answers(200)
    move(pod, container)
    client.wait_answers(200)
    report = client.close()
    assert report["errors"] == []
    assert report["wire"] == []


def test_unix_sockets_inside_the_container(node):
    """Stream and packet sockets between the container's own processes, by path and by name."""
    pod = node.pod()
    container = pod.run()
    address = pod.address
    assert nodes.ask(address, "unix before") == "unix before before"
    move(pod, container)
    assert nodes.ask(address, "unix after") == "unix after after"


def test_one_container_while_another_goes_on(node):
    """Two containers of a pod talk over loopback; one is dumped and goes on, the other is not."""
    pod = node.pod()
    dumped = pod.run()
    pod.run("-port", "9001", "-chat", "127.0.0.1:9000")
    address = pod.address
    other = nodes.Client(address, port=9001)
    other.wait_answers(50)
    eventually(lambda: chatted(address) > 20)
    for _ in range(3):
        checkpoint(node, dumped)
        node.exec("rm", ARCHIVE)
        seen = chatted(address)
        eventually(lambda seen=seen: chatted(address) > seen + 50, outcome=True)
        other.wait_answers(50)
    assert_unharmed(other.close())


def chatted(address: str) -> int:
    """Return how many answers the second container has had, if nothing went wrong."""
    word, number, *failure = nodes.ask(address, "chatted", port=9001).split(maxsplit=2)
    assert (word, failure) == ("chatted", [])
    return int(number)
