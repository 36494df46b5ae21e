"""The CRI methods of containers that crishim changes.

- CheckpointContainer: our dump.
- CreateContainer: the image names a checkpoint: create from its base image, get ready to restore.
- StartContainer: restore, if a checkpoint waits.
- StopContainer, RemoveContainer: wait for a dump or restore under way; end a container that we
  hold frozen; clear up after a restore.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crishim._proto.runtime.v1 import api_pb2
from crishim.aio.shield import in_thread
from crishim.dump.request import DumpRequest
from crishim.errors import Busy, CrishimError, InvalidRequest, Precondition, RuntimeRefused
from crishim.flow.phases import Phases
from crishim.ids import by_prefix, container_id
from crishim.modes import OnFailure
from crishim.restore.createrequest import base_request
from crishim.restore.wanted import may_want, read_manifest, refuse_foreign, wanted
from crishim.server.cri.leaving import tried, whole_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from crishim.containerd.cri import Cri
    from crishim.containerd.images import Images
    from crishim.dump.dumper import Dumper
    from crishim.flow.locks import Locks
    from crishim.ids import ContainerId
    from crishim.restore.leftovers import Leftovers
    from crishim.restore.restore import Restorer
    from crishim.restore.restored import Restored
    from crishim.restore.wanted import Wanted
    from crishim.sandbox.held import HeldSandboxes
    from crishim.server.calls import Calls
    from crishim.server.relay.overrides import Call
    from crishim.store.store import Store

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Containers:
    """Our versions of methods of containers.

    Attributes:
        calls: what must finish before the daemon may end.
        timeout_s: deadline of a checkpoint whose caller names none.
    """

    calls: Calls
    cri: Cri
    images: Images
    dumper: Dumper
    restorer: Restorer
    leftovers: Leftovers
    held: HeldSandboxes
    locks: Locks
    store: Store
    restored: Restored
    timeout_s: float

    async def CheckpointContainer(self, call: Call) -> bytes:
        """Dump a container to `location`; it goes on running."""
        request = api_pb2.CheckpointContainerRequest.FromString(call.raw)
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

    async def CreateContainer(self, call: Call) -> bytes:
        """Create a container; from a checkpoint if its image names one."""
        request = api_pb2.CreateContainerRequest.FromString(call.raw)
        self._refuse_cut_off(request.pod_sandbox_id)
        if not may_want(request):
            return await call.forward(call.raw)
        is_image = await self._is_image(request.config.image.image)
        asked = await in_thread(
            lambda: wanted(request, self.store, self.restored, is_image=is_image)
        )
        if asked is None or await self._ran_after_all(asked, request):
            return await call.forward(call.raw)
        try:
            return await self._create_to_restore(request, asked, call)
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
        return await self.leftovers.settle(asked.unsettled, pod_uid=uid, name=name)

    async def _create_to_restore(
        self, request: api_pb2.CreateContainerRequest, asked: Wanted, call: Call
    ) -> bytes:
        manifest = await in_thread(read_manifest, asked.archive)
        if asked.options.once:
            refuse_foreign(asked, manifest, request.sandbox_config.metadata.namespace)
        base = await base_request(request, manifest.container, cri=self.cri, images=self.images)
        answer = await call.forward(base.SerializeToString())
        created = container_id(api_pb2.CreateContainerResponse.FromString(answer).container_id)
        with self.calls.must_finish(f"preparation of {created[:13]}"):
            try:
                await self.restorer.prepare(
                    created, asked.archive, asked.options, phases=Phases(timeout_s=self.timeout_s)
                )
            except BaseException:
                await tried(self._give_up(created), f"container {created[:13]}")
                raise
        return answer

    async def _give_up(self, created: ContainerId) -> None:
        await self.cri.remove_container(created)
        await self.leftovers.removed(created)

    async def StartContainer(self, call: Call) -> bytes:
        """Start a container, or restore it if a checkpoint waits for it."""
        request = api_pb2.StartContainerRequest.FromString(call.raw)
        if not self.leftovers.waits(request.container_id):
            sandbox = await self._look_before_start(request.container_id)
            # Nothing is awaited since that look: whoever cuts the pod off after it sees the start.
            with self.locks.starting(request.container_id):
                await self._let_go_for(sandbox)
                return await call.forward(call.raw)
        container = container_id(request.container_id)
        with self.calls.must_finish(f"restore of {container[:13]}"):
            await self.restorer.start(container, phases=Phases(timeout_s=self.timeout_s))
        return b""

    async def StopContainer(self, call: Call) -> bytes:
        """Stop a container; one that we hold frozen is ended here."""
        request = api_pb2.StopContainerRequest.FromString(call.raw)
        async with self._leaving(request.container_id):
            return await call.forward(call.raw)

    async def RemoveContainer(self, call: Call) -> bytes:
        """Remove a container and what we keep of it."""
        request = api_pb2.RemoveContainerRequest.FromString(call.raw)
        async with self._leaving(request.container_id) as container:
            answer = await call.forward(call.raw)
            await tried(self.leftovers.removed(container), f"files of {container[:13]}")
            return answer

    @contextlib.asynccontextmanager
    async def _leaving(self, named: str) -> AsyncIterator[str]:
        """Own a container that is to go, ended if we hold it frozen; its whole id is returned.

        Args: named: an id or the first digits of one.
        """
        container = await whole_id(named, self.cri.containers)
        await self.locks.recovered.wait(container)
        async with self.locks.leaving(container):
            if stopped := self.held.records.of_container(container):
                await tried(self.held.end(stopped[1].id), f"end of container {container[:13]}")
            yield container

    def _refuse_cut_off(self, sandbox: str) -> None:
        """Refuse a container in the sandbox of a stopped one, or of one that is about to be.

        That sandbox is cut off, and its address may be another pod's by now.
        """
        if by_prefix(sandbox, self.held.records.sandboxes()):
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
        if not self.held.records.sandboxes() and not self.locks.any_cut_off:
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
        if record := self.held.records.of_addresses(addresses):
            await tried(
                self.held.connections.give_up(
                    record.sandbox, "CNI gave the address to another pod"
                ),
                f"connections to {', '.join(addresses)}",
            )
