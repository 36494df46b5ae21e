"""Exchange a created container's record for one whose runtime is our wrapper.

containerd cannot change the runtime options of a container's record, so the record is deleted and
created again with other options. Between the two a crash would lose the container, hence: its full
record is on disk before it is deleted, and until containerd has it again; its snapshot is under a
lease that expires by itself, and `recover` creates a record that was left missing.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from crishim._proto.containerd.services.containers.v1 import containers_pb2
from crishim.aio.shield import in_thread
from crishim.container import resolve
from crishim.errors import RuntimeAlreadyExists, RuntimeNotFound, RuntimeRefused, RuntimeUnavailable
from crishim.ids import ContainerId
from crishim.kernel import atomic

if TYPE_CHECKING:
    from pathlib import Path

    from crishim.containerd.records import Records

_log = logging.getLogger(__name__)
_LEASE_LIFETIME_S = 3600.0
_RUNTIME_BACK_S = 30.0
_POLL_S = 0.1
_RECORD = "record"
_OPTIONS_URL = "containerd.runc.v1.Options"


async def exchange(container: ContainerId, *, records: Records, wrapper: Path) -> None:
    """Make `wrapper` the runtime binary of a container that was created and not started.

    Args: wrapper: absolute path in the container's restore directory.
    On failure: the record is as it was; where containerd does not take it back, it stays on disk
        for `recover`. It must not be cancelled between the two.
    """
    record = await records.container(container)
    options = resolve.runtime_options(record)
    options.binary_name = str(wrapper)
    changed = containers_pb2.Container()
    changed.CopyFrom(record)
    changed.runtime.options.type_url = _OPTIONS_URL
    changed.runtime.options.value = options.SerializeToString()
    await _unlease(container, records)  # of an attempt that a crash has ended
    await records.lease_snapshot(
        _lease(container),
        snapshotter=record.snapshotter,
        key=record.snapshot_key,
        lifetime_s=_LEASE_LIFETIME_S,
    )
    saved = wrapper.parent / _RECORD
    await in_thread(lambda: atomic.write_file(saved, changed.SerializeToString(), mode=0o600))
    try:
        await records.delete_container(container)
        await _create(changed, records)
    except BaseException:
        # It may be deleted although containerd has refused or has not answered.
        await _create(record, records)
        await _forget(saved, container, records)
        raise
    await _forget(saved, container, records)


async def recover(directory: Path, *, records: Records) -> None:
    """Create the record that an interrupted exchange has left deleted, if there is one."""
    saved = directory / _RECORD
    try:
        record = containers_pb2.Container.FromString(await in_thread(saved.read_bytes))
    except FileNotFoundError:
        return
    await _create(record, records)
    await _forget(saved, ContainerId(record.id), records)


async def _create(record: containers_pb2.Container, records: Records) -> None:
    """Create a record; one that is there is fine, and a containerd that starts again is awaited."""
    tries = int(_RUNTIME_BACK_S / _POLL_S)
    while True:
        try:
            await records.create_container(record)
            return
        except RuntimeAlreadyExists:
            return
        except RuntimeUnavailable:
            tries -= 1
            if tries == 0:
                raise
        await asyncio.sleep(_POLL_S)


async def _forget(saved: Path, container: ContainerId, records: Records) -> None:
    """Take an exchange as over: containerd has the record."""
    await in_thread(lambda: saved.unlink(missing_ok=True))
    await _unlease(container, records)


async def _unlease(container: ContainerId, records: Records) -> None:
    """Delete the lease of an exchange; one that stays expires by itself."""
    try:
        await records.unlease(_lease(container))
    except RuntimeNotFound:
        pass  # it has expired
    except RuntimeRefused as error:
        _log.warning("the lease of container %s stays: %s", container[:13], error.details)


def _lease(container: ContainerId) -> str:
    return f"crishim-{container}"
