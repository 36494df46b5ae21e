"""Archives and requests that are wrong: one clear error with the path, and nothing left."""

from __future__ import annotations

import uuid

import pytest

from tests.e2e import nodes

DIRECTORY = "/var/lib/crishim-bad"
GOOD = f"{DIRECTORY}/good.tar"
BAD = f"{DIRECTORY}/bad.tar"

# Run on the node by the daemon's own Python: spoil.py KIND GOOD BAD.
SPOIL = """
import dataclasses, io, json, os, shutil, sys, tarfile
from crishim.archive import manifest as manifests
kind, good, bad = sys.argv[1:]
shutil.copyfile(good, bad)
with tarfile.open(good) as tar:
    members = [(m, tar.extractfile(m).read() if m.isfile() else b"") for m in tar]
data = {m.name: body for m, body in members}
places = {m.name: m.offset_data for m, _ in members}
decoded = manifests.decode(data["crishim.json"])
def flip(offset):
    with open(bad, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 16]))
def write(members):
    with tarfile.open(bad, "w", format=tarfile.GNU_FORMAT) as tar:
        for info, body in members:
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
def with_manifest(text):
    write([(m, text if m.name == "crishim.json" else body) for m, body in members])
def with_entry(name, type=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = type, link
    write([(info, b""), *members])
if kind == "truncated":
    os.truncate(bad, os.path.getsize(bad) * 2 // 3)
elif kind == "bit in pages":
    flip(places["checkpoint/pages-1.img"] + 5000)
elif kind == "bit in manifest":
    flip(places["crishim.json"] + data["crishim.json"].index(b"10.88"))
elif kind == "missing image":
    write([item for item in members if item[0].name != "checkpoint/inventory.img"])
elif kind == "no manifest":
    write([item for item in members if item[0].name != "crishim.json"])
elif kind == "architecture":
    platform = dataclasses.replace(decoded.platform, architecture="sparc64")
    with_manifest(manifests.encode(dataclasses.replace(decoded, platform=platform)))
elif kind == "newer":
    with_manifest(json.dumps({**json.loads(data["crishim.json"]), "version": 3}).encode())
elif kind == "dotdot":
    with_entry("checkpoint/../../../etc/evil")
elif kind == "link":
    with_entry("checkpoint/evil.img", tarfile.SYMTYPE, "/etc/shadow")
elif kind == "device":
    with_entry("checkpoint/evil.img", tarfile.CHRTYPE)
elif kind == "no archive":
    open(bad, "wb").write(b"no archive at all" * 100)
os.chmod(bad, 0o666 if kind == "writable" else 0o600)
"""


@pytest.fixture(scope="module")
def good(lab_up):
    """An archive of a container with a volume, whose source is gone."""
    node = nodes.Node("node1")
    node.sh(f"mkdir -p {DIRECTORY}/volume")
    pod = node.pod()
    volume = {"container_path": "/data", "host_path": f"{DIRECTORY}/volume"}
    container = pod.run("-memory-mb", "2", mounts=[volume])
    node.crictl("checkpoint", "--export", GOOD, container)
    pod.remove()
    yield volume
    node.exec("rm", "-rf", DIRECTORY)


def refused(node, image: str, **config: object) -> str:
    """Create from an image in a new pod, and return the error; no container is left."""
    pod = node.pod()
    with pytest.raises(nodes.CommandFailed) as failed:
        pod.create(image, **config)
    assert node.crictl("ps", "-aq", "--pod", pod.id) == ""
    assert node.sh("ls -A /var/lib/crishim/restores 2>/dev/null || true") == ""
    assert "/var" not in node.sh(
        "cut -d' ' -f5 /proc/self/mountinfo | grep ^/var/lib/crishim/ || true"
    )
    return failed.value.stderr


@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [
        ("truncated", "DataLoss", "truncated"),
        ("bit in pages", "DataLoss", "the entry checkpoint/pages-1.img is damaged"),
        ("bit in manifest", "DataLoss", "does not match its own digest"),
        ("missing image", "DataLoss", "checkpoint/inventory.img"),
        ("no manifest", "FailedPrecondition", "has no manifest"),
        ("architecture", "FailedPrecondition", "is from sparc64"),
        ("newer", "FailedPrecondition", "format version 3"),
        ("dotdot", "DataLoss", "checkpoint/../../../etc/evil"),
        ("link", "DataLoss", "something else than files"),
        ("device", "DataLoss", "something else than files"),
        ("no archive", "DataLoss", "tar header"),
        ("writable", "FailedPrecondition", "written by somebody else than root"),
    ],
)
def test_a_bad_archive(node, good, kind, code, words):
    """Refused by CreateContainer, with the archive's path."""
    node.exec("/opt/crishim/bin/python", "-c", SPOIL, kind, GOOD, BAD)
    error = refused(node, BAD, mounts=[good])
    assert f"code = {code}" in error
    assert BAD in error
    assert words in error


def test_a_container_that_lacks_a_mount(node, good):
    """The mount is named; with it, the same archive is restored."""
    error = refused(node, GOOD)
    assert "code = FailedPrecondition" in error
    assert f"the container lacks mounts that {GOOD} needs: /data" in error
    pod = node.pod()
    node.crictl("start", pod.create(GOOD, mounts=[good]))
    assert nodes.ask(pod.address, "count 1") == "count 1 1"


@pytest.mark.parametrize(
    ("image", "code", "words"),
    [
        (f"{DIRECTORY}/none.tar", "NotFound", f"there is no checkpoint {DIRECTORY}/none.tar"),
        (DIRECTORY, "NotFound", f"there is no checkpoint {DIRECTORY}"),
        (f"{DIRECTORY}/volume/../good.tar", "InvalidArgument", "is not a clean absolute path"),
        ("../good.tar", "", "good.tar"),
        ("checkpoints/good.tar", "", "checkpoints/good.tar"),
    ],
)
def test_an_image_that_looks_like_a_path(node, good, image, code, words):
    """A path that leads to nothing, and names that containerd is asked for."""
    error = refused(node, image)
    assert f"code = {code}" in error
    assert words in error


def test_a_second_replica_with_the_same_address(node, good):
    """The first one keeps the address, its client sees nothing; the second is told who has it."""
    archive = f"{DIRECTORY}/{uuid.uuid4().hex[:6]}.tar"
    pod = node.pod()
    container = pod.run()
    address = pod.address
    node.exec("crishim", "checkpoint", container, "--stop", "--output", archive)
    pod.remove()
    first = node.pod()
    node.crictl("start", first.create(archive))
    client = nodes.Client(address)
    client.wait_answers(20)
    second = node.pod()
    own = second.address
    with pytest.raises(nodes.CommandFailed) as failed:
        node.crictl("start", second.create(archive))
    assert "code = AlreadyExists" in failed.value.stderr
    assert address in failed.value.stderr
    assert second.address == own
    client.wait_answers(20)
    report = client.close()
    assert report["errors"] == []
    assert report["wire"] == []


def test_a_pod_that_prefers_a_cold_start(node, good):
    """What CRIU has refused is reported, and the pod's next container is an ordinary one.

    A restore that did not come as far as CRIU may go well the next time, and is never given up.
    """
    name = f"cold-{uuid.uuid4().hex[:6]}"
    source = node.pod()
    container = source.run()
    assert nodes.ask(source.address, "write /tmp/kept a line") == "ok"
    node.exec("crishim", "checkpoint", container, "--name", name, "--tcp", "close")
    source.remove()
    words = {"crishim.io/restore": name, "crishim.io/on-restore-failure": "cold"}
    pod = node.pod(annotations=words)
    for attempt, line in enumerate(("tcp-established-nonsense", "action-script /bin/false")):
        node.sh(f"mkdir -p /etc/criu; echo '{line}' > /etc/criu/runc.conf")
        try:
            main = {"name": "main", "attempt": attempt}
            failing = pod.create(nodes.IMAGE, "/workload", metadata=main)
            with pytest.raises(nodes.CommandFailed, match=r"type RESTORE|script"):
                node.crictl("start", failing)
        finally:
            node.exec("rm", "-f", "/etc/criu/runc.conf")
        node.crictl("rm", failing)
    second = pod.create(nodes.IMAGE, "/workload", metadata={"name": "main", "attempt": 2})
    node.crictl("start", second)
    assert nodes.ask(pod.address, "count 1") == "count 1 1"
    assert nodes.ask(pod.address, "read /tmp/kept").startswith("error")
    node.exec("crishim", "rm", name)
