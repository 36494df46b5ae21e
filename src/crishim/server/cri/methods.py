"""The CRI methods that crishim changes; each reads its request, calls a flow, or passes on.

Everything else of CRI goes through the relay without being parsed. Fields that our protos do not
know survive, because a request is passed on as the message that was read.

- CheckpointContainer: our dump.
- CreateContainer: the image names a checkpoint: create from its base image, get ready to restore.
- StartContainer: restore, if a checkpoint waits.
- RunPodSandbox: MPTCP off in the new namespace, because CRIU refuses MPTCP sockets.
- PodSandboxStatus, GetContainerEvents: report the preserved address.
- StopPodSandbox, RemovePodSandbox: CNI's own address back first; the node's hold before a stopped
  container's sandbox goes.
- StopContainer, RemoveContainer: wait for a dump or restore under way; end a container that we
  hold frozen; clear up after a restore.
- ExecSync, Exec: wait for a dump's pause to end, because runc refuses an exec in a frozen
  container.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from crishim._proto.runtime.v1 import api_pb2
from crishim.aio.shield import in_thread, to_the_end
from crishim.dump.request import DumpRequest
from crishim.errors import Busy, CrishimError, InvalidRequest, Precondition, RuntimeRefused
from crishim.flow.phases import Phases
from crishim.ids import by_prefix, container_id, sandbox_id
from crishim.restore.createrequest import body_request
from crishim.restore.wanted import may_want, read_manifest, refuse_foreign, wanted
from crishim.sandbox.addresses import MPTCP_SYSCTL
from crishim.words import OnFailure

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Awaitable,
        Callable,
        Coroutine,
        Iterable,
    )

    from crishim.containerd.cri import Cri
    from crishim.containerd.images import Images
    from crishim.dump.dumper import Dumper
    from crishim.flow.locks import Locks
    from crishim.ids import ContainerId
    from crishim.restore.restore import Restorer
    from crishim.restore.restored import Restored
    from crishim.restore.wanted import Wanted
    from crishim.sandbox.addresses import Sandboxes
    from crishim.sandbox.held import Held
    from crishim.server.guard import Calls, Context
    from crishim.server.relay.handler import Forwarder, Override, StreamOverride
    from crishim.store.store import Store

_Listed: TypeAlias = api_pb2.Container | api_pb2.PodSandbox
_log = logging.getLogger(__name__)
_RUNTIME = "/runtime.v1.RuntimeService/"
_ID_DIGITS = 64
"""Of a whole id of containerd's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CriMethods:
    """Our versions of CRI methods.

    Args:
        forwarder: passes a request on to containerd.
        calls: what must finish before the daemon may end.
        timeout_s: deadline of a checkpoint whose caller names none.
    """

    forwarder: Forwarder
    calls: Calls
    cri: Cri
    images: Images
    dumper: Dumper
    restorer: Restorer
    sandboxes: Sandboxes
    held: Held
    locks: Locks
    store: Store
    restored: Restored
    timeout_s: float

    def overrides(self) -> dict[str, Override]:
        """Return the methods with one answer, by their full names."""
        methods = (
            self.CheckpointContainer, self.CreateContainer, self.StartContainer,
            self.StopContainer, self.RemoveContainer, self.ExecSync, self.Exec,
            self.RunPodSandbox, self.PodSandboxStatus, self.StopPodSandbox, self.RemovePodSandbox,
        )  # fmt: skip
        return {_RUNTIME + method.__name__: method for method in methods}

    def stream_overrides(self) -> dict[str, StreamOverride]:
        """Return the server-streaming methods, by their full names."""
        return {_RUNTIME + "GetContainerEvents": self.GetContainerEvents}

    async def CheckpointContainer(self, raw: bytes, context: Context) -> bytes:
        """Dump a container to `location`; it goes on running."""
        request = api_pb2.CheckpointContainerRequest.FromString(raw)
        if not Path(request.location).is_absolute():
            raise InvalidRequest("location must be an absolute path")
        wanted = DumpRequest(
            container=container_id(request.container_id),
            output=Path(request.location),
            replace=True,  # as containerd does; `needed` has its say
        )
        phases = Phases(timeout_s=request.timeout or self.timeout_s)
        with self.calls.must_finish(f"checkpoint of {request.container_id[:13]}"):
            await self.dumper.dump(wanted, phases)
        return b""

    async def CreateContainer(self, raw: bytes, context: Context) -> bytes:
        """Create a container; from a checkpoint if its image names one."""
        request = api_pb2.CreateContainerRequest.FromString(raw)
        self._refuse_cut_off(request.pod_sandbox_id)
        if not may_want(request):
            return await self._forward("CreateContainer", raw, context)
        is_image = await self._is_image(request.config.image.image)
        asked = await in_thread(
            lambda: wanted(request, self.store, self.restored, is_image=is_image)
        )
        if asked is None or await self._ran_after_all(asked, request):
            return await self._forward("CreateContainer", raw, context)
        try:
            return await self._create_to_restore(request, asked, context)
        except CrishimError as error:
            if asked.options.on_failure is OnFailure.COLD:
                uid, name = request.sandbox_config.metadata.uid, request.config.metadata.name
                failed = functools.partial(self.restored.failed, error, archive=asked.archive)
                await in_thread(lambda: failed(pod_uid=uid, container=name))
            raise

    async def _is_image(self, name: str) -> bool:
        """Return whether a stored checkpoint has the name of an image on the node, which wins."""
        if name.startswith("/") or not await in_thread(self.store.has, name):
            return False
        found = bool(await self.cri.image_id(name))
        if found:
            _log.info("%s is an image of this node, and a checkpoint: the image is taken", name)
        return found

    async def _ran_after_all(self, asked: Wanted, request: api_pb2.CreateContainerRequest) -> bool:
        """Return whether a restore that a crash has left unsettled has succeeded."""
        if asked.unsettled is None:
            return False
        uid, name = request.sandbox_config.metadata.uid, request.config.metadata.name
        return await self.restorer.settle(asked.unsettled, pod_uid=uid, name=name)

    async def _create_to_restore(
        self, request: api_pb2.CreateContainerRequest, asked: Wanted, context: Context
    ) -> bytes:
        manifest = await in_thread(read_manifest, asked.archive)
        if asked.options.once:
            refuse_foreign(asked, manifest, request.sandbox_config.metadata.namespace)
        body = await body_request(request, manifest.container, cri=self.cri, images=self.images)
        answer = await self._forward("CreateContainer", body.SerializeToString(), context)
        created = container_id(api_pb2.CreateContainerResponse.FromString(answer).container_id)
        with self.calls.must_finish(f"preparation of {created[:13]}"):
            try:
                await self.restorer.prepare(
                    created, asked.archive, asked.options, phases=Phases(timeout_s=self.timeout_s)
                )
            except BaseException:
                await _tried(self._give_body_up(created), f"container {created[:13]}")
                raise
        return answer

    async def _give_body_up(self, created: ContainerId) -> None:
        await self.cri.remove_container(created)
        await self.restorer.removed(created)

    async def StartContainer(self, raw: bytes, context: Context) -> bytes:
        """Start a container, or restore it if a checkpoint waits for it."""
        request = api_pb2.StartContainerRequest.FromString(raw)
        if not self.restorer.waits(request.container_id):
            sandbox = await self._look_before_start(request.container_id)
            # Nothing is awaited since that look: whoever cuts the pod off after it sees the start.
            with self.locks.starting(request.container_id):
                await self._let_go_for(sandbox)
                return await self._forward("StartContainer", raw, context)
        container = container_id(request.container_id)
        with self.calls.must_finish(f"restore of {container[:13]}"):
            await self.restorer.start(container, phases=Phases(timeout_s=self.timeout_s))
        return b""

    async def StopContainer(self, raw: bytes, context: Context) -> bytes:
        """Stop a container; one that we hold frozen is ended here."""
        request = api_pb2.StopContainerRequest.FromString(raw)
        async with self._leaving(request.container_id):
            return await self._forward("StopContainer", raw, context)

    async def RemoveContainer(self, raw: bytes, context: Context) -> bytes:
        """Remove a container and what we keep of it."""
        request = api_pb2.RemoveContainerRequest.FromString(raw)
        async with self._leaving(request.container_id) as container:
            answer = await self._forward("RemoveContainer", raw, context)
            await _tried(self.restorer.removed(container), f"files of {container[:13]}")
            return answer

    @contextlib.asynccontextmanager
    async def _leaving(self, named: str) -> AsyncIterator[str]:
        """Own a container that is to go, ended if we hold it frozen; its whole id is returned.

        Args: named: an id or the first digits of one.
        """
        container = await _whole_id(named, self.cri.containers)
        await self.locks.recovered.wait(container)
        async with self.locks.leaving(container):
            if record := self.held.of_container(container):
                await _tried(self.held.end(record.sandbox), f"end of container {container[:13]}")
            yield container

    async def ExecSync(self, raw: bytes, context: Context) -> bytes:
        """Run a command, after a dump's pause that is under way."""
        request = api_pb2.ExecSyncRequest.FromString(raw)
        await self.locks.exec_may_begin(request.container_id)
        with self.locks.exec(request.container_id):
            return await self._forward("ExecSync", raw, context)

    async def Exec(self, raw: bytes, context: Context) -> bytes:
        """Prepare an exec session, after a dump's pause that is under way."""
        request = api_pb2.ExecRequest.FromString(raw)
        await self.locks.exec_may_begin(request.container_id)
        return await self._forward("Exec", raw, context)

    async def RunPodSandbox(self, raw: bytes, context: Context) -> bytes:
        """Run a sandbox and make its namespace fit for CRIU."""
        answer = await self._forward("RunPodSandbox", raw, context)
        asked = api_pb2.RunPodSandboxRequest.FromString(raw).config.linux.sysctls
        if MPTCP_SYSCTL not in asked:  # what a pod says itself is left as it is
            created = api_pb2.RunPodSandboxResponse.FromString(answer).pod_sandbox_id
            await self.sandboxes.started(sandbox_id(created))
        return answer

    async def PodSandboxStatus(self, raw: bytes, context: Context) -> bytes:
        """Return a sandbox's status with the address that its pod really has."""
        answer = await self._forward("PodSandboxStatus", raw, context)
        if not self.sandboxes.any_preserved:
            return answer
        status = api_pb2.PodSandboxStatusResponse.FromString(answer)
        self.sandboxes.correct(status.status)
        return status.SerializeToString()

    async def StopPodSandbox(self, raw: bytes, context: Context) -> bytes:
        """Stop a sandbox; CNI finds the address that it gave."""
        request = api_pb2.StopPodSandboxRequest.FromString(raw)
        async with self._leaving_sandbox(request.pod_sandbox_id):
            return await self._forward("StopPodSandbox", raw, context)

    async def RemovePodSandbox(self, raw: bytes, context: Context) -> bytes:
        """Remove a sandbox, its containers, and what we keep of them."""
        request = api_pb2.RemovePodSandboxRequest.FromString(raw)
        async with self._leaving_sandbox(request.pod_sandbox_id) as sandbox:
            answer = await self._forward("RemovePodSandbox", raw, context)
            self.held.sandbox_removed(sandbox)
        self.calls.afterwards("clearing up", self.restorer.sweep())
        return answer

    @contextlib.asynccontextmanager
    async def _leaving_sandbox(self, named: str) -> AsyncIterator[str]:
        """Own a sandbox that is to go, with CNI's own address in it; its whole id is returned.

        Args: named: an id or the first digits of one.
        """
        sandbox = await _whole_id(named, self.cri.sandboxes)
        await self.locks.recovered.wait(sandbox)
        async with self.locks.whole(sandbox):
            self.restorer.preparations.drop(sandbox)
            await _tried(self.restorer.pod_leaves(sandbox), f"restore in sandbox {sandbox[:13]}")
            await _tried(self.sandboxes.stopping(sandbox), f"address of sandbox {sandbox[:13]}")
            yield sandbox

    async def GetContainerEvents(self, raw: bytes, context: Context) -> AsyncGenerator[bytes, None]:
        """Stream events; those with a sandbox's status report the address it really has."""
        async for event in self.forwarder.stream(_RUNTIME + "GetContainerEvents", raw, context):
            if not self.sandboxes.any_preserved:
                yield event
                continue
            message = api_pb2.ContainerEventResponse.FromString(event)
            self.sandboxes.correct(message.pod_sandbox_status)
            yield message.SerializeToString()

    def _refuse_cut_off(self, sandbox: str) -> None:
        """Refuse a container in the sandbox of a stopped one, or of one that is about to be.

        That sandbox is cut off, and its address may be another pod's by now.
        """
        if by_prefix(sandbox, self.held.sandboxes()):
            raise Precondition(
                "the pod's container was stopped by a checkpoint, and the pod is cut off",
                hint="make a new pod",
            )
        if self.locks.cut_off(sandbox):
            raise Busy("a checkpoint is about to stop the pod's container and to cut the pod off")

    async def _look_before_start(self, container: str) -> str:
        """Refuse an ordinary start in a sandbox that is cut off; return the sandbox, if looked at.

        What cannot be found out is no reason to refuse: it is an ordinary container.
        """
        if not self.held.sandboxes() and not self.locks.any_cut_off:
            return ""
        try:
            sandbox = await self.cri.sandbox_of(container)
        except RuntimeRefused as error:
            _log.debug("an ordinary start is not looked at: %s", error.details)
            return ""
        self._refuse_cut_off(sandbox)
        return sandbox

    async def _let_go_for(self, sandbox: str) -> None:
        """Let connections go that wait for an address which CNI gave to this pod meanwhile."""
        if not sandbox:
            return
        try:
            addresses = await self.cri.addresses(sandbox)
        except RuntimeRefused as error:
            _log.debug("the addresses of a start are not looked at: %s", error.details)
            return
        if record := self.held.of_addresses(addresses):
            await _tried(
                self.held.give_up(record.sandbox, "CNI gave the address to another pod"),
                f"connections to {', '.join(addresses)}",
            )

    async def _forward(self, method: str, request: bytes, context: Context) -> bytes:
        return await self.forwarder.forward(_RUNTIME + method, request, context)


async def _whole_id(named: str, listed: Callable[[], Awaitable[Iterable[_Listed]]]) -> str:
    """Return the id of which somebody gave the first digits, or what was given if none is known."""
    if len(named) >= _ID_DIGITS:
        return named
    return by_prefix(named, [item.id for item in await listed()]) or named


async def _tried(step: Coroutine[Any, Any, object], what: str) -> None:
    """Do to its end what must not keep a call from containerd; a failure is logged.

    What it was about stays on record, and is tried again later.
    """
    try:
        await to_the_end(step)
    except Exception as error:  # noqa: BLE001 - containerd is asked whatever happened here
        _log.exception("%s: %s", what, error)
