"""Give a created container our runtime wrapper: "first the body, then the soul".

containerd cannot change the runtime options of a container's record, so the record is deleted and
created again with other options. Between the two a crash would lose the container, hence: its full
record is on disk before it is deleted, its snapshot is under a lease that expires by itself, and
`recover` creates a record that a crash has left missing.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import grpc

from crishim._proto.containerd.services.containers.v1 import containers_pb2
from crishim.checkpoint import resolve
from crishim.kernel import atomic

if TYPE_CHECKING:
    from pathlib import Path

    from crishim.containerd.records import Records
    from crishim.ids import ContainerId

_LEASE_LIFETIME_S = 3600.0
_OPTIONS_URL = "containerd.runc.v1.Options"


async def exchange(container: ContainerId, *, records: Records, wrapper: Path) -> None:
    """Make `wrapper` the runtime binary of a container that was created and not started.

    Args: wrapper: absolute path in the container's restore directory.
    On failure: the record is as it was. It must not be cancelled between the two; a crash there is
        mended by `recover`.
    """
    directory = wrapper.parent
    record = await records.container(container)
    options = resolve.runtime_options(record)
    options.binary_name = str(wrapper)
    changed = containers_pb2.Container()
    changed.CopyFrom(record)
    changed.runtime.options.type_url = _OPTIONS_URL
    changed.runtime.options.value = options.SerializeToString()
    lease = f"crishim-{container}"
    with contextlib.suppress(grpc.aio.AioRpcError):
        await records.unlease(lease)  # of an attempt that a crash has ended
    await records.lease_snapshot(
        lease, snapshotter=record.snapshotter, key=record.snapshot_key, lifetime_s=_LEASE_LIFETIME_S
    )
    atomic.write_file(directory / "record", changed.SerializeToString(), mode=0o600)
    await records.delete_container(container)
    try:
        await records.create_container(changed)
    except BaseException:
        await records.create_container(record)
        raise
    finally:
        (directory / "record").unlink()
        await records.unlease(lease)


async def recover(directory: Path, *, records: Records) -> None:
    """Create the record that an interrupted exchange has left deleted, if there is one."""
    path = directory / "record"
    try:
        saved = containers_pb2.Container.FromString(path.read_bytes())
    except FileNotFoundError:
        return
    try:
        await records.create_container(saved)
    except grpc.aio.AioRpcError as error:
        if error.code() != grpc.StatusCode.ALREADY_EXISTS:
            raise
    path.unlink()
    try:
        await records.unlease(f"crishim-{saved.id}")
    except grpc.aio.AioRpcError as error:
        if error.code() != grpc.StatusCode.NOT_FOUND:
            raise
