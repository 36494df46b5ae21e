import hashlib
import io
import json
import os
import socket
import tarfile

import pytest

from lab.parts.oci import Blob, Image, normalized_reference, write_archive, write_layer


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("counter", "docker.io/library/counter:latest"),
        ("counter:1", "docker.io/library/counter:1"),
        ("me/counter", "docker.io/me/counter:latest"),
        ("host.example/counter", "host.example/counter:latest"),
        ("localhost/counter:2", "localhost/counter:2"),
        ("host:5000/counter", "host:5000/counter:latest"),
        ("host.example/a@sha256:00", "host.example/a@sha256:00"),
    ],
)
def test_names_are_completed_as_containerd_does(name, full):
    assert normalized_reference(name) == full


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    (root / "bin").mkdir(parents=True)
    program = root / "bin/program"
    program.write_bytes(b"\x7fELF" + bytes(5000))
    program.chmod(0o4755)
    os.link(program, root / "bin/other-name")
    (root / "bin/link").symlink_to("program")
    os.utime(program, ns=(1, 1_600_000_000_123_456_789))
    return root


def test_a_layer_keeps_links_modes_and_exact_times(tree, tmp_path):
    blob = write_layer(tree, tmp_path / "layer.tar")
    with tarfile.open(tmp_path / "layer.tar") as archive:
        members = {member.name: member for member in archive}
        program, other = members["bin/program"], members["bin/other-name"]
        first, second = sorted((program, other), key=lambda member: member.islnk())
        assert first.isreg()
        assert second.islnk()
        assert second.linkname == first.name
        assert first.mode == 0o4755
        assert first.pax_headers["mtime"] == "1600000000.123456789"
        assert members["bin/link"].issym()
        assert members["bin/link"].linkname == "program"
        content = archive.extractfile(first)
        assert content is not None
        assert content.read() == (tree / "bin/program").read_bytes()
    data = (tmp_path / "layer.tar").read_bytes()
    assert blob.digest == "sha256:" + hashlib.sha256(data).hexdigest()
    assert blob.size_bytes == len(data)


def test_a_layer_leaves_sockets_out(tree, tmp_path, monkeypatch):
    monkeypatch.chdir(tree)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
    write_layer(tree, tmp_path / "layer.tar")
    with tarfile.open(tmp_path / "layer.tar") as archive:
        assert "socket" not in archive.getnames()
        assert "bin/program" in archive.getnames()


def test_every_descriptor_of_an_archive_names_a_blob_that_is_there_once(tree, tmp_path):
    layer = write_layer(tree, tmp_path / "layer.tar")
    images = [
        Image(reference="a.example/one:1", layers=(layer,), command=("/bin/program", "x")),
        Image(reference="a.example/two:2", layers=(layer,), user="1000:1000"),
    ]
    target = io.BytesIO()
    write_archive(images, target)
    target.seek(0)
    with tarfile.open(fileobj=target) as archive:
        names = archive.getnames()
        files = {name: archive.extractfile(name).read() for name in names}
    assert len(names) == len(set(names))
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}

    def blob(descriptor):
        data = files["blobs/" + descriptor["digest"].replace(":", "/")]
        assert len(data) == descriptor["size"]
        assert descriptor["digest"] == "sha256:" + hashlib.sha256(data).hexdigest()
        return data

    entries = json.loads(files["index.json"])["manifests"]
    references = [entry["annotations"]["io.containerd.image.name"] for entry in entries]
    assert references == ["a.example/one:1", "a.example/two:2"]
    manifests = [json.loads(blob(entry)) for entry in entries]
    configs = [json.loads(blob(manifest["config"])) for manifest in manifests]
    assert configs[0]["config"]["Cmd"] == ["/bin/program", "x"]
    assert configs[1]["config"]["User"] == "1000:1000"
    for manifest, config in zip(manifests, configs, strict=True):
        assert blob(manifest["layers"][0]) == (tmp_path / "layer.tar").read_bytes()
        assert config["rootfs"]["diff_ids"] == [layer.digest]


def test_labels_give_equal_images_ids_of_their_own():
    layer = Blob.of_bytes(b"layer")
    digests = set()
    for label in ("one", "two"):
        target = io.BytesIO()
        image = Image(reference="a.example/x:1", layers=(layer,), labels=(("lab.image", label),))
        write_archive([image], target)
        target.seek(0)
        with tarfile.open(fileobj=target) as archive:
            index = archive.extractfile("index.json")
            assert index is not None
            digests.add(json.load(index)["manifests"][0]["digest"])
    assert len(digests) == 2
