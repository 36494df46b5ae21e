"""Files that a process has open while the name by which it opened them is gone."""

import pytest

from tests.e2e.moves import ARCHIVE, checkpoint, eventually, move
from tests.e2e.test_refusals import refused

BUSYBOX = "docker.io/library/busybox:latest"
APPEND = "while :; do i=$((i+1)); echo $i >&3; sleep 0.05; done"


def start(pod, script: str, **config: object) -> str:
    """Start a shell script in a container."""
    container = pod.create(BUSYBOX, "sh", "-ec", script, **config)
    pod.node.crictl("start", container)
    return container


def lines(node, container: str, path: str) -> list[int]:
    """The numbers that the script has appended to a file."""
    return [int(line) for line in node.crictl("exec", container, "cat", path).split()]


def goes_on(node, container: str, path: str, before: list[int]) -> None:
    """The revived process appends to the file that it had open: nothing lost, nothing twice."""
    eventually(lambda: len(lines(node, container, path)) > len(before) + 10)
    found = lines(node, container, path)
    assert found == list(range(1, len(found) + 1))


def test_a_file_with_another_name(node):
    """CRIU links it again for its dump only; the link must reach the new pod's layer."""
    script = f"mkdir /data; exec 3> /data/f; ln /data/f /data/kept; rm /data/f; {APPEND}"
    pod = node.pod()
    container = start(pod, script)
    eventually(lambda: len(lines(node, container, "/data/kept")) > 10)
    before = lines(node, container, "/data/kept")
    successor, revived = move(pod, container)
    goes_on(node, revived, "/data/kept", before)
    assert node.crictl("exec", revived, "ls", "/data").split() == ["kept"]
    # The restored process has it open without its name still: once more.
    _, revived = move(successor, revived)
    goes_on(node, revived, "/data/kept", before)
    assert node.crictl("exec", revived, "ls", "/data").split() == ["kept"]


def test_a_file_with_another_name_while_the_source_goes_on(node):
    """Nothing of CRIU's link stays in the running container."""
    script = f"mkdir /data; exec 3> /data/f; ln /data/f /data/kept; rm -r /data/f; {APPEND}"
    container = start(node.pod(), script)
    eventually(lambda: len(lines(node, container, "/data/kept")) > 10)
    checkpoint(node, container)
    assert node.crictl("exec", container, "ls", "/data").split() == ["kept"]
    before = lines(node, container, "/data/kept")
    goes_on(node, container, "/data/kept", before)
    node.exec("rm", ARCHIVE)


def test_a_file_with_no_name_at_all(node):
    """CRIU keeps its content."""
    script = f"echo $$ > /pid; exec 3> /tmp/f; rm /tmp/f; {APPEND}"
    pod = node.pod()
    container = start(pod, script)
    path = f"/proc/{node.crictl('exec', container, 'cat', '/pid').strip()}/fd/3"
    eventually(lambda: len(lines(node, container, path)) > 10)
    before = lines(node, container, path)
    _, revived = move(pod, container)
    goes_on(node, revived, path, before)


@pytest.fixture
def volume(node):
    """A directory of the node."""
    path = "/var/lib/volume"
    node.exec("mkdir", path)
    yield path
    node.exec("rm", "-r", path)


def test_a_file_with_another_name_on_a_volume(node, volume):
    """No layer takes it along: refused, and the container runs on."""
    script = f"exec 3> /data/f; ln /data/f /data/kept; rm /data/f; {APPEND}"
    mounts = [{"container_path": "/data", "host_path": volume}]
    container = start(node.pod(), script, mounts=mounts)
    eventually(lambda: len(lines(node, container, "/data/kept")) > 10)
    error = refused(node, container)
    assert "/data/f open, which was removed from a volume" in error
    goes_on(node, container, "/data/kept", lines(node, container, "/data/kept"))
