"""What cannot be checkpointed is one clear error; the container runs on and nothing is left."""

from __future__ import annotations

import contextlib
import json
import subprocess

import pytest

from tests.e2e import nodes, programs
from tests.e2e.waiting import eventually

DIRECTORY = "/var/lib/crishim-refusals"
ARCHIVE = f"{DIRECTORY}/x.tar"
HOST_NETWORK = {"security_context": {"namespace_options": {"network": 2}}}
BUSY = 3

# Run on the node: starts `crishim checkpoint ARGV`, and does ACTION once its phase PHASE has begun.
WHEN_IN_PHASE = """
import os, signal, subprocess, sys, time
phase, action, pid, *argv = sys.argv[1:]
first = subprocess.Popen(["crishim", "checkpoint", *argv], stderr=subprocess.PIPE, text=True)
seen = []
for line in first.stderr:
    seen.append(line)
    if line.split()[-1] == phase:
        break
if action == "interrupt":
    first.send_signal(signal.SIGINT)
elif action == "outlast":
    time.sleep(1.2)  # the deadline is a time: it has passed then, however slow the machine is
    os.kill(int(pid), signal.SIGCONT)
elif action == "again":
    second = subprocess.run(["crishim", "checkpoint", *argv], stderr=subprocess.PIPE, text=True)
    os.kill(int(pid), signal.SIGCONT)
    sys.stderr.write(f"second: {second.returncode} {second.stderr}")
sys.stderr.write("".join(seen) + first.stderr.read())
sys.exit(first.wait())
"""


@pytest.fixture(scope="module")
def image(lab_up, tmp_path_factory):
    """The image of odd programs."""
    programs.make_image(tmp_path_factory.mktemp("host"))


@pytest.fixture
def directory(node):
    """A directory on the node for archives; nothing may be left in it but a whole one."""
    node.exec("mkdir", "-p", DIRECTORY)
    yield
    left = node.sh(f"cd {DIRECTORY}; rm -f x.tar; ls -A")
    node.exec("rm", "-rf", DIRECTORY)
    assert left == ""


@pytest.fixture
def served(node, directory):
    """A workload with a client on it, which sees no error until the end of the test."""
    pod = node.pod()
    container = pod.run("-memory-mb", "30")
    client = nodes.Client(pod.address)
    client.wait_answers(20)
    yield container
    client.wait_answers(20)
    report = client.close()
    assert report["errors"] == []
    assert report["wire"] == []


def refused(node, container: str, *options: str, output: str = ARCHIVE) -> str:
    """Ask for a checkpoint that is refused, and return the error; no file appears."""
    with pytest.raises(nodes.CommandFailed) as failed:
        node.exec("crishim", "checkpoint", container, "--output", output, *options)
    assert node.sh(f"ls {output} 2>/dev/null || true") == ""
    return failed.value.stderr


def refused_by_cri(node, container: str, *, output: str = ARCHIVE) -> str:
    """The same through crictl, which shows the status code."""
    with pytest.raises(nodes.CommandFailed) as failed:
        node.crictl("checkpoint", "--export", output, container)
    return failed.value.stderr


def runs_on(node, container: str) -> None:
    """Its state, and that its processes are not frozen: it can be checkpointed where it may be."""
    status = json.loads(node.crictl("inspect", container))["status"]
    assert status["state"] == "CONTAINER_RUNNING"


@contextlib.contextmanager
def small_disk(node, path: str, options: str):
    """A small file system on the node."""
    node.sh(f"mkdir -p {path} && mount -t tmpfs -o {options} small {path}")
    try:
        yield
    finally:
        node.exec("umount", path)


def test_a_disk_that_is_too_small(node, served):
    """Found by an estimate, with both figures."""
    small = f"{DIRECTORY}/small"
    with small_disk(node, small, "size=10m"):
        error = refused_by_cri(node, served, output=f"{small}/x.tar")
        assert "code = ResourceExhausted" in error
        assert f"{small} has 10 MB left" in error
        assert "needs more than" in refused(node, served, output=f"{small}/x.tar")
        assert node.sh(f"ls -A {small}") == ""
    node.exec("rmdir", small)


def test_a_disk_without_inodes(node, served):
    """What no estimate finds: the file cannot be made."""
    small = f"{DIRECTORY}/small"
    with small_disk(node, small, "size=200m,nr_inodes=1"):
        error = refused(node, served, output=f"{small}/x.tar")
        assert "No space left" in error
        assert f"{small}/x.tar" in error
    node.exec("rmdir", small)


def test_a_disk_that_fills_up_while_criu_writes(node, served):
    """CRIU fails in the middle of the pause; what there is of its log is kept.

    The log is on the same disk and ends at an arbitrary place, so that the error holds either
    CRIU's own line or, where that was cut off, what runc has made of its end.
    """
    with small_disk(node, "/var/lib/crishim/dumps", "size=40k"):
        error = refused(node, served)
        assert "runc checkpoint failed" in error
        assert "No space left on device" in error or "criu failed" in error
        log = error.partition("whole log: ")[2].partition(")")[0]
        assert "(00.0" in node.exec("cat", log)
    node.crictl("checkpoint", "--export", ARCHIVE, served)


def test_no_such_directory_and_no_such_container(node, served):
    """Wrong arguments."""
    assert f"{DIRECTORY}/none/x.tar" in refused(node, served, output=f"{DIRECTORY}/none/x.tar")
    error = refused_by_cri(node, served, output=f"{DIRECTORY}/none/x.tar")
    assert "code = NotFound" in error
    assert "not found" in refused(node, "0123456789ab")
    assert "code = NotFound" in refused_by_cri(node, "0123456789ab")


def test_a_stopped_container(node, directory):
    """It has no state to write."""
    pod = node.pod()
    container = pod.run()
    node.crictl("stop", "--timeout", "2", container)
    assert "is not running" in refused(node, container)
    assert "code = FailedPrecondition" in refused_by_cri(node, container)


def test_a_terminal(node, image, directory):
    """Its other end lies outside."""
    pod = node.pod()
    container = programs.run(pod, "", tty=True)
    assert "tty: true" in refused(node, container)
    assert "the container has a terminal" in refused_by_cri(node, container)
    runs_on(node, container)


def test_connections_on_the_node_s_network(node, directory):
    """The node's address cannot move; without connections, or with `close`, it works."""
    pod = node.pod(linux=HOST_NETWORK)
    plain_tcp = [{"key": "GODEBUG", "value": "multipathtcp=0"}]
    container = pod.run("-port", "9123", envs=plain_tcp, linux=HOST_NETWORK)
    address = node.sh("ip -4 -o addr show eth0").split()[3].split("/")[0]
    node.crictl("checkpoint", "--export", ARCHIVE, container)
    node.exec("rm", ARCHIVE)
    client = nodes.Client(address, port=9123)
    client.wait_answers(20)
    error = refused(node, container)
    assert "node's network" in error
    assert f"{address}:9123 to " in error
    assert "--tcp close" in error
    node.exec("crishim", "checkpoint", container, "--output", ARCHIVE, "--tcp", "close")
    client.wait_answers(20)
    assert client.close()["errors"] == []


def test_a_connection_over_another_interface(node, directory):
    """No new pod would have its address: refused before the pause, the connection goes on."""
    pod = node.pod()
    container = pod.run()
    anchor = pod.status()["info"]["pid"]
    node.sh(
        f"ip link add extra type veth peer name net1 netns {anchor}\n"
        "ip addr add 10.99.0.1/24 dev extra; ip link set extra up\n"
        f"nsenter -t {anchor} -n sh -c 'ip addr add 10.99.0.2/24 dev net1; ip link set net1 up'"
    )
    code = "import socket, sys\ns = socket.create_connection(('10.99.0.2', 9000))\n"
    code += "for line in sys.stdin:\n s.sendall(line.encode()); print(s.recv(99).decode(), flush=1)"
    client = subprocess.Popen(
        [str(nodes.LAB), "exec", node.name, "--", "python3", "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
    )  # fmt: skip
    try:
        for number in (1, 2):
            client.stdin.write(f"count {number}\n")
            assert client.stdout.readline().strip() == f"count {number} {number}"
            client.stdout.readline()
            error = refused(node, container, "--stop")
            assert "has a socket at 10.99.0.2:9000, an address of net1" in error
            assert "--tcp close" in error
    finally:
        client.communicate(timeout=20)
    node.exec("crishim", "checkpoint", container, "--output", ARCHIVE)


@pytest.mark.parametrize("namespace", ["pid", "ipc"])
def test_the_node_s_process_ids_or_ipc(node, directory, namespace):
    """A pod that shares those is restored like any other."""
    shared = {"security_context": {"namespace_options": {namespace: 2}}}
    container = node.pod(linux=shared).run(linux=shared)
    node.exec("crishim", "checkpoint", container, "--stop", "--output", ARCHIVE, "--tcp", "close")
    successor = node.pod(linux=shared)
    node.crictl("start", successor.create(ARCHIVE, linux=shared))
    assert nodes.ask(successor.address, "count 1") == "count 1 1"


def test_system_v_memory_of_the_node(node, image, directory):
    """It would stay behind."""
    shared = {"security_context": {"namespace_options": {"ipc": 2}}}
    code = """
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
memory = libc.shmget(0, 4096, 0o1600)
assert libc.shmat(memory, None, 0)
libc.shmctl(memory, 0, None)"""
    container = programs.run(node.pod(linux=shared), code, linux=shared)
    error = refused(node, container)
    assert "(python3 " in error
    assert "System V shared memory of the node" in error
    runs_on(node, container)


def test_mptcp(node, directory):
    """A Go server in a pod whose namespace allows MPTCP; the program and both cures are named."""
    pod = node.pod()
    anchor = pod.status()["info"]["pid"]
    node.exec("nsenter", "-t", str(anchor), "-n", "sysctl", "-qw", "net.mptcp.enabled=1")
    container = pod.run()
    nodes.ask(pod.address, "count 1")
    error = refused(node, container)
    assert f"process {programs.pid(node, container)} (/workload) has an MPTCP socket" in error
    assert "net.mptcp.enabled=0" in error
    assert "GODEBUG=multipathtcp=0" in error
    assert "code = Unimplemented" in refused_by_cri(node, container)
    assert nodes.ask(pod.address, "count 2") == "count 2 2"


def test_io_uring(node, image, directory):
    """The program is named."""
    code = "ring = ctypes.CDLL(None).syscall(425, 8, ctypes.create_string_buffer(120))\n"
    container = programs.run(node.pod(), code + "assert ring >= 0")
    error = refused(node, container)
    assert f"process {programs.pid(node, container)} (python3 " in error
    assert "io_uring" in error
    runs_on(node, container)


def test_half_of_a_unix_connection(node, image, directory):
    """The other end is a program of the node; both are named, and the socket's path."""
    path = f"{DIRECTORY}/socket"
    listener = subprocess.Popen(
        [
            *(str(nodes.LAB), "exec", node.name, "--", "python3", "-c"),
            "import socket, sys\ns = socket.socket(socket.AF_UNIX)\n"
            f"s.bind({path!r})\ns.listen()\nc = s.accept()\nsys.stdin.read()",
        ],
        stdin=subprocess.PIPE,
    )
    try:
        node.sh(f"while [ ! -S {path} ]; do sleep 0.1; done")
        volume = {"container_path": "/outside", "host_path": DIRECTORY}
        code = "s = socket.socket(socket.AF_UNIX)\ns.connect('/outside/socket')"
        container = programs.run(node.pod(), code, mounts=(volume,))
        error = refused(node, container)
        assert f"process {programs.pid(node, container)} (python3 -uc" in error
        assert "has a UNIX connection to process" in error
        assert "(python3 -c import socket, sys" in error
        assert path in error
        runs_on(node, container)
    finally:
        listener.communicate(timeout=20)
        node.exec("rm", path)


def test_a_mount_made_inside(node, image, directory):
    """A file system that CRIU does not know, mounted by the program itself."""
    container = programs.run(node.pod(), "")
    pid = str(programs.pid(node, container))
    node.exec("nsenter", "-t", pid, "-m", "mount", "-t", "ramfs", "none", "/tmp")
    assert "mounts that were made inside the container: /tmp (ramfs)" in refused(node, container)
    node.exec("nsenter", "-t", pid, "-m", "umount", "/tmp")
    node.crictl("checkpoint", "--export", ARCHIVE, container)


def test_an_open_exec_session(node, served):
    """A session that does not end is refused by name."""
    session = subprocess.Popen(
        [*(str(nodes.LAB), "exec", node.name, "--"), "crictl", "exec", served, "/workload",
         "-port", "9777"],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        node.sh("until pgrep -f '^/workload -port 9777' >/dev/null; do sleep 0.1; done")
        error = refused(node, served)
        assert "(/workload -port 9777)" in error
        assert "exec session" in error
    finally:
        node.sh("kill $(pgrep -f '^/workload -port 9777')")
        session.wait(timeout=20)


def test_an_orphan_in_a_pod_with_shared_process_ids(node, image, directory):
    """The pause process takes it, outside of the tree that CRIU dumps: no session, another cure."""
    code = (
        "if os.fork() == 0:\n if os.fork() == 0:\n  os.setsid(); time.sleep(1000)\n os._exit(0)\n"
    )
    container = programs.run(node.pod(), f"{code}os.wait()")
    error = refused(node, container)
    assert "(python3 -uc" in error and "has lost its parent" in error
    assert "shareProcessNamespace" in error
    runs_on(node, container)
    own = {"security_context": {"namespace_options": {"pid": 1}}}
    container = programs.run(node.pod(), f"{code}os.wait()", linux=own)
    node.exec("crishim", "checkpoint", container, "--output", ARCHIVE)


def test_connections_that_are_not_wanted(node, served):
    """`--tcp refuse`, with the client's connection open."""
    error = refused(node, served, "--tcp", "refuse")
    assert "open TCP connections: " in error
    assert ":9000 to " in error


def test_no_criu(node, served):
    """The kubelet's own tests look for these words."""
    node.sh("mount --bind /usr/bin/false $(command -v criu)")
    try:
        error = refused_by_cri(node, served)
    finally:
        node.sh("umount $(command -v criu)")
    assert (
        "rpc error: code = Unknown desc = CRIU binary not found or too old (<31600). "
        "Failed to checkpoint container"
    ) in error
    node.crictl("checkpoint", "--export", ARCHIVE, served)


@contextlib.contextmanager
def busy_listener(node, container: str):
    """Stop a workload with a connection in its accept queue, so that a dump stays in `drain`."""
    status = json.loads(node.crictl("inspect", container))
    pid = status["info"]["pid"]
    pod = json.loads(node.crictl("inspectp", status["info"]["sandboxID"]))
    address = pod["status"]["network"]["ip"]
    node.exec("kill", "-STOP", str(pid))
    code = f"import socket, sys\ns = socket.create_connection(({address!r}, 9000))\n"
    code += "print('connected', flush=True)\nsys.stdin.read()"
    waiting = subprocess.Popen(
        [str(nodes.LAB), "net", "--", "python3", "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert waiting.stdout is not None
        assert waiting.stdout.readline().strip() == "connected"
        yield str(pid)
    finally:
        node.exec("kill", "-CONT", str(pid))
        waiting.communicate(timeout=20)


def test_two_at_once(node, served):
    """The second one is told of the first, which is not disturbed."""
    with busy_listener(node, served) as pid:
        argv = ("drain", "again", pid, served, "--output", ARCHIVE)
        done = subprocess.run(
            [str(nodes.LAB), "exec", node.name, "--", "python3", "-c", WHEN_IN_PHASE, *argv],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"second: {BUSY} " in done.stderr
    assert f"a checkpoint of container {served[:13]} is under way" in done.stderr
    assert node.sh(f"stat -c %a {ARCHIVE}").strip() == "600"


def test_the_deadline_is_looked_at_between_phases(node, served):
    """A phase that takes too long is not broken off, but the next one does not begin."""
    with busy_listener(node, served) as pid:
        argv = ("drain", "outlast", pid, served, "--timeout", "1", "--output", ARCHIVE)
        with pytest.raises(nodes.CommandFailed) as failed:
            node.exec("python3", "-c", WHEN_IN_PHASE, *argv)
    assert "the deadline passed in phase 'drain', before 'pause'" in failed.value.stderr
    assert node.sh(f"ls -A {DIRECTORY}") == ""


@pytest.mark.parametrize("phase", ["layer", "memory", "pack"])
def test_ctrl_c(node, served, phase):
    """Interrupted wherever it is, the dump leaves nothing; the next one works."""
    argv = (phase, "interrupt", "0", served, "--output", ARCHIVE)
    with pytest.raises(nodes.CommandFailed):
        node.exec("python3", "-c", WHEN_IN_PHASE, *argv)
    listing = f"find {DIRECTORY} /var/lib/crishim/dumps -mindepth 1"
    eventually(
        lambda: not node.sh(listing), within_s=10, what=lambda: node.sh(listing), outcome=True
    )
    runs_on(node, served)
    node.exec("crishim", "checkpoint", served, "--output", ARCHIVE)
