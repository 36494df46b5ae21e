"""`crishim list`, `inspect` and `rm`, against the service over a real socket."""

import asyncio
import contextlib
import dataclasses
import errno
import json
import os
import threading
import time

import pytest

from crishim._proto.crishim.v1 import crishim_pb2, crishim_pb2_grpc
from crishim._proto.criu import images_pb2 as images
from crishim.aio import patience
from crishim.archive.writer import ArchiveWriter
from crishim.cli import client
from crishim.cli.main import main
from crishim.containerd.channel import unix_target
from crishim.housekeeping.needed import Needed
from crishim.housekeeping.removal import Removal
from crishim.ids import checkpoint_name
from crishim.paths import Paths
from crishim.restore import plans
from crishim.restore.preparing import Preparing
from crishim.sandbox import heldrecord
from crishim.sandbox.held import HeldSandboxes
from crishim.sandbox.heldrecord import Waits
from crishim.server.api.service import CheckpointRestore
from crishim.server.calls import Calls
from crishim.server.guard import Guard
from crishim.server.listen import new_server
from crishim.store.pins import Pins
from crishim.store.store import Store
from tests.fakes.cri_server import FakeRuntime
from tests.unit.criu_samples import ENTRIES, PSTREE, image
from tests.unit.samples import held_record, manifest

IMAGE, OTHER_IMAGE = "sha256:" + "1" * 64, "sha256:" + "3" * 64


class FakeImages:
    """containerd's images, with the pins that were set."""

    def __init__(self) -> None:
        self.names = {IMAGE, OTHER_IMAGE}
        self.ours: set[str] = set()

    async def pin(self, name):
        if name in self.names:
            self.ours.add(name)
        return name in self.names

    async def unpin(self, name):
        self.ours.discard(name)

    async def pinned(self):
        return sorted(self.ours)


class Node:
    """A state directory, the service on a socket, and the command."""

    def __init__(self, directory, capsys) -> None:
        self.paths = Paths(state=directory / "state", run=directory)
        self.store = Store(self.paths)
        self.images = FakeImages()
        self.pins = Pins(self.images, self.store)
        self.held = HeldSandboxes(self.paths, None)
        self.socket = directory / "s.sock"
        self._capsys = capsys

    def add(self, name, *, image=IMAGE, running=True, entries=ENTRIES, **changes):
        plain = manifest()
        changed = dataclasses.replace(
            plain,
            container=dataclasses.replace(plain.container, image_id=image),
            options=dataclasses.replace(plain.options, source_running=running),
            interfaces=(),
            **changes,
        )
        path = self.store.path(checkpoint_name(name))
        with ArchiveWriter.create(path) as writer:
            for entry, data in entries.items():
                writer.add_bytes(entry, data)
            writer.commit(changed)
        os.utime(path, (len(self.store.names()),) * 2)
        return path

    @contextlib.asynccontextmanager
    async def serving(self):
        async def examine():
            return []

        own = CheckpointRestore(
            cri=None,
            held=self.held,
            dumper=None,
            restorer=None,
            receiver=None,
            store=self.store,
            calls=Calls(),
            timeout_s=10,
            removal=Removal(
                store=self.store,
                needed=Needed(paths=self.paths, held=self.held, preparing=Preparing()),
                pins=self.pins,
                held=self.held,
            ),
            examine=examine,
        )
        service = crishim_pb2.DESCRIPTOR.services_by_name["CheckpointRestore"]
        server = new_server(FakeRuntime())
        crishim_pb2_grpc.add_CheckpointRestoreServicer_to_server(
            Guard(Calls()).servicer(own, service), server
        )
        server.add_insecure_port(unix_target(self.socket))
        await server.start()
        try:
            yield
        finally:
            await server.stop(None)

    async def run(self, *words):
        """Run the command; return its exit status, output and errors."""

        def command():
            try:
                return main([*words, "--socket", str(self.socket)])
            except SystemExit as end:
                return end.code

        self._capsys.readouterr()
        status = await asyncio.to_thread(command)
        return status, *self._capsys.readouterr()


@pytest.fixture
async def node(tmp_path, capsys):
    node = Node(tmp_path, capsys)
    async with node.serving():
        yield node


async def test_list_of_an_empty_store(node):
    status, out, _ = await node.run("list")
    assert status == 0
    assert out.split() == ["NAME", "POD", "CONTAINER", "AGE", "SIZE", "STATE", "ADDRESSES"]


async def test_list_tells_what_became_of_the_source_and_what_cannot_be_read(node):
    node.add("first", running=True)
    node.add("second", running=False)
    node.store.path(checkpoint_name("broken")).write_bytes(b"no archive")
    status, out, _ = await node.run("list")
    assert status == 0
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert list(lines) == ["NAME", "first", "second", "broken"]
    assert " default/pod " in lines["first"] and " counter " in lines["first"]
    assert " running" in lines["first"] and " ended" in lines["second"]
    assert "unreadable: " in lines["broken"]


async def test_list_for_programs(node):
    node.add("first")
    _, out, _ = await node.run("list", "--json")
    (first,) = json.loads(out)
    assert first["name"] == "first"
    assert first["source_running"] is True


async def test_inspect_shows_the_tree_sockets_mounts_and_files(node):
    node.add("first")
    status, out, _ = await node.run("inspect", "first")
    assert status == 0
    tree = out[out.index("processes\n") : out.index("mounts\n")].splitlines()[1:5]
    assert tree == ["  1 init", "    7 worker (uid 33)", "      9 leaf", tree[3]]
    assert tree[3].startswith("    8 evil")
    rows = [line.split() for line in out.splitlines()]
    assert ["/data", "bind", "/var/lib/data"] in rows
    assert ["tcp", "established", "10.1.2.3:6379", "192.0.2.9:40001"] in rows
    assert any(row[:1] == ["checkpoint/pstree.img"] for row in rows)
    assert ["pause", "98", "ms"] in rows
    assert "\x1b" not in out


async def test_inspect_tells_what_was_not_kept(node):
    node.add("first")
    _, out, _ = await node.run("inspect", "first")
    assert "not kept\n  five datagrams (send again)\n" in out
    _, out, _ = await node.run("inspect", "first", "--json")
    assert json.loads(out)["warnings"][0]["kind"] == "socket-queue"
    node.add("whole", losses=())
    _, out, _ = await node.run("inspect", "whole")
    assert "not kept" not in out


async def test_inspect_needs_no_trusted_owner_and_takes_a_path(node, tmp_path):
    path = node.add("first")
    away = tmp_path / "anywhere.tar"
    path.rename(away)
    away.chmod(0o666)
    status, out, _ = await node.run("inspect", str(away), "--json")
    assert status == 0
    found = json.loads(out)
    assert found["info"]["path"] == str(away)
    assert found["info"]["name"] == ""
    assert len(found["processes"]) == 4
    assert found["entries"][0]["digest"]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"config.dump": b"{}"}, "has no entry checkpoint/pstree.img"),
        ({**ENTRIES, "checkpoint/files.img": b"x"}, "files.img does not begin"),
    ],
)
async def test_inspect_refuses_what_it_cannot_read(node, entries, message):
    node.add("first", entries=entries)
    status, out, err = await node.run("inspect", "first")
    assert (status, out) == (1, "")
    assert message in err


async def test_figures_that_no_counter_reaches_are_refused(node):
    node.add("first", created_at_ns=10**40)
    for words in (("inspect", "first"), ("inspect", "first", "--json")):
        status, _, err = await node.run(*words)
        assert status == 1
        assert "created_at_ns" in err
    assert "unreadable" in (await node.run("list"))[1]


async def test_half_characters_do_not_break_the_list(node):
    container = dataclasses.replace(manifest().container, pod_name="half \ud800")
    node.add("good")
    path = node.add("first")
    with ArchiveWriter.create(path, replace=lambda: None) as writer:
        writer.commit(dataclasses.replace(manifest(), container=container))
    status, out, _ = await node.run("list")
    assert status == 0
    assert "crishim.json is not readable" in out and " default/pod " in out


async def test_parents_in_a_circle_do_not_hang_the_tree(node):
    circle = image(PSTREE, images.Process(pid=7, ppid=8), images.Process(pid=8, ppid=7))
    node.add("first", entries={**ENTRIES, "checkpoint/pstree.img": circle})
    status, out, _ = await node.run("inspect", "first")
    assert status == 0
    assert "7 worker" in out and "8 evil" in out


async def test_rm_tries_all_and_tells_which_are_gone(node):
    node.add("first")
    node.add("second")
    status, out, err = await node.run("rm", "first", "third", "second")
    assert (status, out.split()) == (1, ["first", "second"])
    assert "there is no checkpoint third" in err
    assert node.store.names() == []


async def test_rm_takes_names_only(node, tmp_path):
    outside = tmp_path / "outside.tar"
    outside.touch()
    for name in (str(outside), "../outside"):
        status, _, err = await node.run("rm", name)
        assert status == 2
        assert "is not a checkpoint name" in err
    assert outside.exists()


async def test_rm_refuses_while_connections_wait_for_it(node):
    archive = node.add("first")
    record = held_record(archive=str(archive))
    node.paths.held.mkdir(parents=True)
    node.paths.held_sandbox(record.sandbox).write_bytes(heldrecord.CODEC.encode(record))
    node.held.records.load()
    status, out, err = await node.run("rm", "first")
    assert (status, out) == (1, "")
    assert "connections to 10.0.0.2 wait for the restore of first" in err
    assert "--force" in err
    assert archive.exists()
    status, out, _ = await node.run("rm", "--force", "first")
    assert (status, out) == (0, "first\n")
    assert not archive.exists()
    assert node.held.records.of_addresses(["10.0.0.2"]) is None


async def test_rm_waits_a_moment_only_for_the_disk_of_another_archive(node, monkeypatch):
    """A stopped container's archive is on a dead NFS server: it may be this one, or not."""
    archive, answer = node.add("first"), threading.Event()
    record = held_record(archive="/dead/a.tar")
    node.held.committed(record, record.containers[0].id)

    def samefile(*_):
        answer.wait()
        return False

    monkeypatch.setattr("os.path.samefile", samefile)
    monkeypatch.setattr(patience, "PATIENCE_S", 0.05)
    try:
        async with asyncio.timeout(5):
            status, out, err = await node.run("rm", "--force", "first")
    finally:
        answer.set()
    assert (status, out) == (1, "")
    assert "nobody knows whether first is still needed: the disk of an archive" in err
    assert archive.exists()
    assert (await node.run("rm", "first"))[0] == 0


async def test_rm_refuses_what_is_left_of_a_container_for_which_nothing_waits(node):
    """Of a pod on the node's network, for instance; the container is still frozen."""
    archive = node.add("first")
    record = held_record(archive=str(archive))
    restored = dataclasses.replace(record, sandbox="6b", waits=Waits.NO_MORE)  # an earlier one
    node.held.committed(restored, restored.containers[0].id)
    assert (await node.run("rm", "first"))[0] == 0
    node.add("first")
    record = dataclasses.replace(record, interfaces=())
    node.held.committed(record, record.containers[0].id)
    status, out, err = await node.run("rm", "first")
    assert (status, out) == (1, "")
    assert "first is what is left of container" in err
    assert archive.exists()
    assert (await node.run("rm", "--force", "first"))[0] == 0
    assert not archive.exists()


@pytest.fixture
def waits_elsewhere(node, tmp_path, monkeypatch):
    """Connections that wait for an archive outside the store."""

    async def nothing(_):
        """Need no netlink."""

    monkeypatch.setattr("crishim.network.neighbours.loosen", nothing)
    monkeypatch.setattr("crishim.kernel.net.packet.send_packets", lambda _: None)
    archive = tmp_path / "away.tar"
    archive.touch()
    an_hour_ago_ns = time.time_ns() - 3600 * 10**9
    record = dataclasses.replace(
        held_record(archive=str(archive)), stopped_at_ns=an_hour_ago_ns, reservations=""
    )
    node.paths.held.mkdir(parents=True)
    node.paths.held_sandbox(record.sandbox).write_bytes(heldrecord.CODEC.encode(record))
    node.held.records.load()
    return archive


async def test_list_shows_what_waits_and_since_when(node, waits_elsewhere):
    node.add("first")
    _, out, _ = await node.run("list")
    checkpoints, waiting = out.split("\n\n")
    assert " default/pod " in checkpoints
    assert waiting.splitlines()[1].split() == ["10.0.0.2", str(waits_elsewhere), "60m"]
    _, out, _ = await node.run("list", "--waiting", "--json")
    (found,) = json.loads(out)
    assert (found["path"], found["name"]) == (str(waits_elsewhere), "")
    assert found["addresses"] == ["10.0.0.2"]
    assert found["pod_sandbox_id"] == "5a"


@pytest.mark.parametrize("by", ["path", "address"])
async def test_rm_lets_go_of_what_waits_elsewhere_and_leaves_the_archive(node, waits_elsewhere, by):
    named = str(waits_elsewhere) if by == "path" else "10.0.0.2"
    status, out, err = await node.run("rm", named)
    assert (status, out) == (1, "")
    assert f"connections to 10.0.0.2 wait for {waits_elsewhere}" in err
    assert "--force" in err
    status, out, _ = await node.run("rm", "--force", named)
    assert (status, out) == (0, f"{named}\n")
    assert node.held.records.of_addresses(["10.0.0.2"]) is None
    assert waits_elsewhere.exists()
    assert (await node.run("list", "--waiting"))[1] == ""


async def test_a_checkpoint_that_is_called_like_an_address_is_removed(node, waits_elsewhere):
    path = node.add("10.0.0.2")
    status, _, _ = await node.run("rm", "--force", "10.0.0.2")
    assert status == 0
    assert not path.exists()
    assert node.held.records.of_addresses(["10.0.0.2"]) is not None


async def test_rm_refuses_while_a_container_waits_for_it(node):
    path = node.add("first")
    directory = node.paths.restore("d" * 64)
    directory.mkdir(parents=True)
    plan = plans.RestorePlan(
        sandbox="s",
        archive=str(path),
        address="keep",
        tcp="established",
        on_failure="fail",
        once=False,
        pod_uid="u",
        container_name="db",
        interfaces=(),
    )
    (directory / "pending").write_text(json.dumps(dataclasses.asdict(plan)))
    status, _, err = await node.run("rm", "first")
    assert status == 3
    assert "container ddddddddddddd (db) is to be restored from first" in err
    assert path.exists()

    plans.finish(directory)
    status, _, _ = await node.run("rm", "first")
    assert status == 0
    assert not path.exists()


async def test_images_stay_pinned_until_the_last_checkpoint_that_needs_them_goes(node):
    node.add("first")
    node.add("second")
    node.add("third", image=OTHER_IMAGE)
    await node.pins.reconcile()
    assert node.images.ours == {IMAGE, OTHER_IMAGE}
    await node.run("rm", "first", "third")
    assert node.images.ours == {IMAGE}
    await node.run("rm", "second")
    assert node.images.ours == set()


async def test_a_checkpoint_that_cannot_be_opened_for_a_moment_keeps_its_image(node, monkeypatch):
    """Too many files are open, or its disk fails: nobody knows that it needs no image."""
    node.add("first")
    await node.pins.reconcile()
    opened = os.open

    def too_many(path, *arguments, **words):
        if str(path).endswith("first.tar"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return opened(path, *arguments, **words)

    with monkeypatch.context() as full:
        full.setattr(os, "open", too_many)
        await node.pins.reconcile()
    assert node.images.ours == {IMAGE}


async def test_a_new_checkpoint_pins_its_image(node, caplog):
    await node.pins.add(manifest())
    assert node.images.ours == {IMAGE}
    node.images.names.clear()
    await node.pins.add(manifest())
    assert "not pinned" in caplog.text


def test_warnings_go_to_standard_error(capsys):
    told = [
        crishim_pb2.Warning(kind="file-lock", what="a lock \x1b[2J", cure="none"),
        crishim_pb2.Warning(kind="other", what="the soul"),
    ]
    client.warn(told)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "warning: not kept: a lock \\x1b[2J (none)",
        "warning: not kept: the soul",
    ]
