"""A whole dump with its edges faked: CRIU, containerd, the pod's network and the kernel's freezer.

Everything between is real: the flow, archive, working directory, locks, records, guardian's half.
The container is a process that sleeps, its cgroup a directory with v1's files in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import struct
import subprocess
from collections.abc import Callable, Coroutine
from concurrent.futures import wait
from pathlib import Path
from typing import Any

from crishim._proto.runtime.v1 import api_pb2
from crishim.aio.lanes import Lane, threads
from crishim.aio.quiet import between_pieces
from crishim.archive.reader import ArchiveReader
from crishim.container.resolve import Source
from crishim.containerd.cri import Container, Sandbox
from crishim.dump import connections
from crishim.dump.context import DumpContext
from crishim.dump.dump import Dump
from crishim.dump.request import DumpRequest
from crishim.flow.handover import Handovers
from crishim.flow.locks import Locks
from crishim.flow.phases import Phases
from crishim.housekeeping.needed import Needed
from crishim.ids import container_id, sandbox_id
from crishim.kernel.mounts import Overlay, read_mounts
from crishim.kernel.net.interface import Address, InterfaceState
from crishim.network.hold import HoldRecord
from crishim.network.keeping import Policy
from crishim.paths import Paths
from crishim.restore.preparing import Preparing
from crishim.sandbox.held import HeldSandboxes
from crishim.tools import criu
from crishim.tools import runc as runcs
from tests.unit.criu_samples import FILES, PSTREE, image

ID, SANDBOX = container_id("c" * 64), sandbox_id("5" * 64)
PAGES = os.urandom(5000)
STATISTICS = struct.pack("<IIIHBB", 0x55105940, 0x57093306, 4, 0x000A, 0, 0)[:12] + b"\n\0"
STEPS_MAX = 20_000
IDLE_S = 60.0
"""Longer than a loaded machine stands still or takes for an fsync; only a deadlock waits it out."""


class Deadlock(BaseException):
    """Nothing is left that could ever go on, or it goes round and round."""


class _Selector(selectors.DefaultSelector):
    """Notices a loop that waits for nothing, without a test that sleeps."""

    steps = 0

    def select(self, timeout: float | None = None) -> list[Any]:
        self.steps += 1
        if self.steps > STEPS_MAX:
            raise Deadlock(f"{STEPS_MAX} steps and no end")
        if timeout is not None:
            return super().select(timeout)
        if not (ready := super().select(IDLE_S)):
            raise Deadlock("everything waits for something else")
        return ready


def new_loop() -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop(_Selector())


class Stepping(Coroutine):
    """A coroutine whose every suspension is told, with what it waits for."""

    def __init__(self, inner: Coroutine, told: Callable[[Any], None]) -> None:
        self._inner = inner
        self._told = told

    def send(self, value: Any) -> Any:
        awaited = self._inner.send(value)
        self._told(awaited)
        return awaited

    def throw(self, *error: Any) -> Any:
        awaited = self._inner.throw(*error)
        self._told(awaited)
        return awaited

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Any:
        raise NotImplementedError


def bulk_work_ends(*, within_s: float = IDLE_S) -> bool:
    """Return whether work in a bulk thread does not stand still now."""
    work = threads(Lane.BULK).submit(between_pieces)
    return not wait([work], timeout=within_s).not_done


class FakeHold:
    """A hold of the pod's connections, as far as a dump can tell."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.record = HoldRecord(netns="/run/netns/x", family="netdev", table="crishim_hold_1")

    async def drain(self, **_: object) -> None:
        await asyncio.sleep(0)
        self._node.holds.add(self)
        self._node.drained()

    async def sockets(self, inodes: frozenset[int]) -> frozenset[int]:
        await asyncio.sleep(0)
        return inodes

    async def close(self, _: object = None) -> None:
        await asyncio.sleep(0)

    async def release(self) -> None:
        await asyncio.sleep(0)
        self._node.holds.discard(self)

    async def leave_namespace(self) -> None:
        await asyncio.sleep(0)

    def share(self, _: object) -> None:
        pass


class FakeGuardian:
    """The process behind `Guardian`: remembers how it was dismissed."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.returncode: int | None = None
        self.stdin = self
        self.stdout = self
        self._said = b""

    def write(self, data: bytes) -> None:
        self._said += data
        self._node = self._node.named(self._said.decode())
        self.returncode = 1 if self._node.guardian_dies else None

    async def drain(self) -> None:
        await asyncio.sleep(0)

    async def readline(self) -> bytes:
        await asyncio.sleep(0)
        self._node.guarded = True
        return b"awake\n"

    def close(self) -> None:
        self._node.guarded = False
        self._node.discharged = self._said.endswith(b"done\n")
        acts = not self._node.discharged and not self._node.guardian_fails
        if acts:  # what it does is tested by itself
            (self._node.freezer / "freezer.state").write_text("THAWED")

    async def wait(self) -> None:
        self.returncode = 0


class FakeCri:
    """containerd: knows whether the process lives, and who else is in the pod."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.neighbours = 0

    async def container(self, container: str) -> Container:
        await asyncio.sleep(0)
        return self._node.named(container).container()

    async def containers(self, _: str) -> list[api_pb2.Container]:
        await asyncio.sleep(0)
        running = api_pb2.CONTAINER_RUNNING
        found = [api_pb2.Container(id=f"n{i}", state=running) for i in range(self.neighbours)]
        return [*found, api_pb2.Container(id="sidecar", state=api_pb2.CONTAINER_CREATED)]


class Node:
    """One container that can be dumped, again and again; a pod may have another one `beside` it."""

    def __init__(
        self, directory: Path, monkeypatch: Any, *, id: str = ID, beside: Node | None = None
    ) -> None:
        self.directory = directory
        self.id = container_id(id)
        self.pages = PAGES if beside is None else os.urandom(len(PAGES))
        self.options: runcs.CheckpointOptions | None = None
        self.paths = Paths(state=directory / "state", run=directory / "run")
        self.target = directory / "out" / "a.tar"
        self.freezer = directory / "cgroup"
        for path in (self.target.parent, self.freezer, directory / "upper", self.root / self.id):
            path.mkdir(parents=True)
        (directory / "upper" / "file").write_bytes(b"content")
        (directory / "0.log").write_bytes(b"a line\n")
        (self.root / self.id / "state.json").write_text(
            f'{{"cgroup_paths": {{"freezer": "{self.freezer}"}}}}'
        )
        self.kubelet = self.guardian_dies = self.guardian_fails = False
        self.drained: Callable[[], None] = lambda: None
        self.holds: set[FakeHold] = set()
        self.guarded = self.discharged = False
        self.criu: Callable[[Path], None] = lambda _: None
        self._process: subprocess.Popen | None = None
        self._all = [self] if beside is None else beside._all
        if beside is None:
            self._fake(monkeypatch)
        else:
            self._all.append(self)
        self.start()

    @property
    def held(self) -> bool:
        return bool(self.holds)

    def named(self, text: str) -> Node:
        """Return the container of the pod that a text names; by default this one."""
        return next((node for node in self._all if node.id in text), self)

    @property
    def root(self) -> Path:
        return self.directory / "runc"

    def _fake(self, monkeypatch: Any) -> None:
        async def prepare(*_: object, **__: object) -> FakeHold:
            await asyncio.sleep(0)
            return FakeHold(self)

        async def read(_: str) -> InterfaceState:
            await asyncio.sleep(0)
            return InterfaceState(
                name="eth0",
                mac="02:00:00:00:00:01",
                mtu_bytes=1500,
                addresses=(Address(address="10.0.0.2", prefix_bits=24),),
            )

        async def version(**_: object) -> str:
            return "4.2.1"

        async def facts(_: str) -> runcs.RuncFacts:
            return runcs.RuncFacts(version="1.3", link_remap=True, cgroups_mode="ignore")

        async def spawn(*_: object, **__: object) -> FakeGuardian:
            await asyncio.sleep(0)
            return FakeGuardian(self)

        monkeypatch.setattr(connections.SourceHold, "prepare", prepare)
        monkeypatch.setattr(connections.address, "read", read)
        monkeypatch.setattr(criu, "version", version)
        monkeypatch.setattr(runcs, "facts", facts)
        monkeypatch.setattr(runcs, "checkpoint", self._checkpoint)
        monkeypatch.setattr(asyncio, "create_subprocess_exec", spawn)

    async def _checkpoint(self, _: object, container: str, options: Any) -> None:
        """What runc and CRIU leave behind; never broken off, as the real call is."""
        node = self.named(container)
        node.options = options

        def dump() -> None:
            node.criu(options.images)
            (options.images / "files.img").write_bytes(image(FILES))
            (options.images / "pstree.img").write_bytes(image(PSTREE))
            with (options.images / "pages-1.img").open("wb") as pages:
                pages.write(node.pages)
            (options.work / "stats-dump").write_bytes(STATISTICS)
            (options.work / "dump.log").write_bytes(b"")

        work = asyncio.get_running_loop().run_in_executor(None, dump)
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])
            raise

    def start(self) -> None:
        """Make everything as before a dump; the process is a new one if the last has ended."""
        if not self.alive:
            self._process = subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL)
        (self.freezer / "freezer.state").write_text("THAWED")
        (self.freezer / "cgroup.procs").write_text(f"{self._process.pid}\n")
        for path in self.target.parent.iterdir():
            path.unlink()
        for path in self.paths.held.glob("*"):
            path.unlink()
        self.holds.clear()
        self.guarded = self.discharged = False

    def end(self) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def frozen(self) -> bool:
        return (self.freezer / "freezer.state").read_text() != "THAWED"

    def container(self) -> Container:
        running = api_pb2.CONTAINER_RUNNING if self.alive else api_pb2.CONTAINER_EXITED
        mounts = [{"destination": mount.mount_point} for mount in read_mounts(os.getpid())]
        return Container(
            id=self.id,
            sandbox=SANDBOX,
            status=api_pb2.ContainerStatus(id=self.id, state=running),
            pid=self._process.pid,
            snapshotter="overlayfs",
            snapshot_key="k",
            runtime_type="io.containerd.runc.v2",
            spec={"mounts": mounts},
            config={},
        )

    def source(self) -> Source:
        return Source(
            container=self.container(),
            sandbox=Sandbox(
                id=SANDBOX,
                status=api_pb2.PodSandboxStatus(id=SANDBOX),
                netns="",  # ours: entering another one takes privileges
                ready=True,
                host_network=False,
            ),
            runc=runcs.Runc(binary="runc", root=self.root),
            layer=Overlay(
                upper=self.directory / "upper",
                work=self.directory / "upper",
                lower=(),
                user_xattr=False,
                metacopy=False,
                redirect_dir=False,
            ),
            log=self.directory / "0.log",
            neighbours=len(self._all) - 1,
            kubelet=self.kubelet,
        )


class Scene:
    """What a daemon knows while one dump goes on; made inside its loop."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.cri = FakeCri(node)
        self.locks = Locks()
        self.held = HeldSandboxes(node.paths, self.cri)
        self.handovers = Handovers()
        self.restored = ""

    def context(self) -> DumpContext:
        return DumpContext(
            paths=self.node.paths,
            cri=self.cri,
            locks=self.locks,
            held=self.held,
            refuse_needed=Needed(
                paths=self.node.paths, held=self.held, preparing=Preparing()
            ).refuse,
            handovers=self.handovers,
            drain_timeout_s=1.0,
            keeps=Policy(unmanaged=True),
        )

    async def dump(self, *, listener: Any = None, **options: Any) -> Any:
        """Dump as the daemon does; a cancellation reaches the flow as it is."""
        request = DumpRequest(container=ID, output=self.node.target, **options)
        with self.locks.hold(ID, "checkpoint", sandbox=SANDBOX) as operation:
            phases = Phases(timeout_s=60, listener=listener)
            dump = Dump(
                context=self.context(),
                source=self.node.source(),
                request=request,
                operation=operation,
                phases=phases,
            )
            return await dump.run()

    async def restore(self, *, fails: bool = False) -> None:
        """Wait for the checkpoint and read it, as a restore does."""
        with contextlib.ExitStack() as stack:
            handover = stack.enter_context(self.handovers.expect(ID))
            await handover.wait_held()
            archive, _ = await handover.wait_archive()
            assert bulk_work_ends(), "its own stands still for the pause that waits for it"
            if fails:
                raise ZeroDivisionError
            with ArchiveReader.open(archive, trusted_owner=False) as reader:
                reader.verify()
            self.restored = str(archive)

    def verdict(self) -> str:
        """Return what is left of container and archive, if it is one of the good ends; else raise.

        The good ends: the container goes on and nothing is left; or it goes no further and its
        whole archive is there, with the record that says so.
        """
        node = self.node
        files = os.listdir(node.target.parent)
        record = self.held.records.of_sandbox(SANDBOX)
        on_disk = list(node.paths.held.glob("*"))
        assert list(node.paths.dumps.glob("*")) == []
        assert not node.guarded
        assert node.discharged or not node.held
        assert not self.locks.busy(ID) and not self.locks.cut_off(SANDBOX)
        assert bulk_work_ends(), "it stands still although nobody is dumped"
        if record is None:
            assert node.alive and not node.frozen and not node.held, "it does not go on"
            assert on_disk == []
            if files:
                assert files == ["a.tar"]
                self._read()
                return "goes on, archive"
            return "goes on"
        assert on_disk, "a record that only the daemon knows"
        assert node.held and files == ["a.tar"]
        self._read()
        if not node.alive:
            return "ended"
        assert node.frozen
        return "frozen"

    def _read(self) -> None:
        with ArchiveReader.open(self.node.target, trusted_owner=False) as reader:
            reader.verify()
            assert reader.read("checkpoint/pages-1.img") == PAGES
