"""The directory of one container that is to be restored, or was: what the runtime wrapper reads.

    runc          path of the real runc, one line
    crishim-runc  the wrapper itself; containerd's record of the container names it
    options       options of `runc restore`, one word per line
    criu.conf     CRIU's options that runc has no flag for
    pending       the plan, as JSON; as long as it is there, a `create` restores
    record        containerd's own record of the container, while it is being exchanged
    restored      stands while the wrapper's `create` has restored and `start` has not come
    images, work  CRIU's images (or where they are mounted) and its log

The directory stays as long as the container does, because containerd's shim calls the wrapper for
its kill and its delete, also when no daemon of ours runs.
"""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crishim import strictjson
from crishim.errors import Corrupt
from crishim.kernel import atomic
from crishim.kernel.net.interface import InterfaceState
from crishim.losses import decode
from crishim.modes import AddressMode, OnFailure, TcpMode
from crishim.versioned import Codec

if TYPE_CHECKING:
    from pathlib import Path

    from crishim.losses import Loss

WRAPPER = "crishim-runc"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePlan:
    """What StartContainer has to do for a container with a checkpoint.

    Attributes:
        sandbox: id of the pod sandbox it lives in.
        archive: absolute path of the checkpoint; "" while it is still to be taken.
        once: a start that succeeded is remembered by pod_uid and container_name.
        interfaces: InterfaceState of the source pod, as JSON values.
        losses: what the checkpoint has not kept, as JSON values.
    """

    sandbox: str
    archive: str
    address: AddressMode
    tcp: TcpMode
    on_failure: OnFailure
    once: bool
    pod_uid: str
    container_name: str
    interfaces: tuple[dict[str, Any], ...]
    losses: tuple[dict[str, Any], ...] = ()

    def states(self) -> tuple[InterfaceState, ...]:
        """Return the interfaces as values; raise Corrupt if they are something else."""
        return tuple(InterfaceState.from_json(state) for state in self.interfaces)

    def told(self) -> tuple[Loss, ...]:
        """Return the losses as values; raise Corrupt if they are something else."""
        return decode(strictjson.Reader(item) for item in self.losses)


def write(
    directory: Path, *, plan: RestorePlan, runc: str, options: list[str], criu_config: str
) -> Path:
    """Fill the directory of one container and return the path of its wrapper.

    Args: directory: exists, 0700, with `images` and `work` in it.
    The plan comes last: without it the wrapper refuses to create anything.
    """
    wrapper = write_wrapper(directory, runc=runc)
    atomic.write_file(
        directory / "options", "".join(f"{o}\n" for o in options).encode(), mode=0o600
    )
    atomic.write_file(directory / "criu.conf", criu_config.encode(), mode=0o600)
    atomic.write_file(directory / "pending", _CODEC.encode(plan), mode=0o600)
    return wrapper


def write_wrapper(directory: Path, *, runc: str) -> Path:
    """Write the wrapper of one container and return its path; without a plan it restores nothing.

    Args: directory: exists, 0700. runc: the real one, a path or a name that PATH finds.
    """
    script = importlib.resources.files("crishim.restore").joinpath("runc-wrapper.sh")
    atomic.write_file(directory / "runc", f"{runc}\n".encode(), mode=0o600)
    atomic.write_file(directory / WRAPPER, script.read_bytes(), mode=0o755)
    return directory / WRAPPER


def read(directory: Path) -> RestorePlan | None:
    """Return the plan of a container that waits for its restore; None if none waits.

    Raises: Corrupt: the plan is there and cannot be read.
    """
    try:
        data = (directory / "pending").read_bytes()
    except FileNotFoundError:
        return None
    try:
        return _CODEC.decode(data)
    except Corrupt as error:
        error.hint = error.hint or f"{directory / 'pending'} is damaged"
        raise


def _read(item: strictjson.Reader, _: int) -> RestorePlan:
    return RestorePlan(
        sandbox=item.text("sandbox"),
        archive=item.text("archive"),
        address=AddressMode(item.text("address")),
        tcp=TcpMode(item.text("tcp")),
        on_failure=OnFailure(item.text("on_failure")),
        once=item.flag("once"),
        pod_uid=item.text("pod_uid"),
        container_name=item.text("container_name"),
        interfaces=item.raw_sections("interfaces"),
        losses=item.raw_sections("losses") if item.has("losses") else (),  # crishim 0.1: none
    )


_CODEC = Codec(what="the restore plan of a container", version=1, read=_read)


def finish(directory: Path) -> None:
    """Mark the checkpoint as used up: from now on the wrapper refuses to create the container."""
    (directory / "pending").unlink(missing_ok=True)
    atomic.fsync_dir(directory)
