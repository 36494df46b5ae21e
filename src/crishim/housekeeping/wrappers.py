"""Put back the runtime wrappers of restored containers whose directory somebody removed.

containerd's record of a restored container names the wrapper as its runc, and the shim calls it for
every kill and delete: without it the container can be neither stopped nor removed, nor its pod. So
a wrapper that is missing is made again, in the place that the record names, without a plan: it
refuses `create` and passes everything else on to runc. It knows no archive and restores nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from crishim.aio.shield import in_thread
from crishim.container import resolve
from crishim.errors import CrishimError, RuntimeRefused
from crishim.ids import ContainerId, container_id, sandbox_id
from crishim.kernel import tree
from crishim.restore import plans

if TYPE_CHECKING:
    from collections.abc import Callable

    from crishim.containerd.cri import Cri
    from crishim.containerd.records import Records
    from crishim.ids import SandboxId

_log = logging.getLogger(__name__)


async def put_back(*, cri: Cri, records: Records, busy: Callable[[str], bool]) -> list[ContainerId]:
    """Make the missing wrappers of this node's containers again; return whose they were.

    Each on its own: one that fails is logged, and the others get theirs.
    One that is being stopped needs its wrapper most. One that is being removed may get it too late:
    the next look for containers that are gone removes it.
    Args: busy: whether a dump or a restore of a container is under way; it is looked at the next
        time.
    Raises: RuntimeRefused: containerd cannot list its containers.
    """
    mended = []
    for item in await cri.containers():
        container = container_id(item.id)
        try:
            sandbox = sandbox_id(item.pod_sandbox_id)
            if not busy(container) and await _mend(container, sandbox, records=records):
                mended.append(container)
        except (CrishimError, RuntimeRefused, OSError) as error:
            _log.warning("the wrapper of container %s: %s", container[:13], error)
    return mended


async def _mend(container: ContainerId, sandbox: SandboxId, *, records: Records) -> bool:
    record = await records.container(container)
    named = Path(resolve.runtime_options(record).binary_name)
    # Ours is told by its name and by its directory's, wherever [paths] state was at the time.
    if named.name != plans.WRAPPER or named.parent.name != container or not named.is_absolute():
        return False
    if await in_thread(_whole, named):
        return False
    # The record's own name of runc went with the exchange; its pod's sandbox still has it.
    runc = resolve.runtime_options(await records.container(sandbox)).binary_name or "runc"
    await in_thread(_write, named.parent, runc)
    _log.warning(
        "restored container %s: its runtime wrapper was missing and is put back; it could not "
        "have been stopped",
        container[:13],
    )
    return True


def _whole(wrapper: Path) -> bool:
    return os.access(wrapper, os.X_OK) and os.access(wrapper.parent / "runc", os.R_OK)


def _write(directory: Path, runc: str) -> None:
    tree.make_private_dir(directory)
    with contextlib.suppress(FileNotFoundError):
        runc = (directory / "runc").read_text(encoding="utf-8").strip() or runc
    plans.write_wrapper(directory, runc=runc)
