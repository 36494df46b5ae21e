"""What a caller of a restore asks for, and what comes of it: a plan, and words for runc.

Knows neither containers at work nor the steps of a restore.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from crishim.errors import Precondition
from crishim.modes import AddressMode, OnFailure, TcpMode
from crishim.restore import plans

if TYPE_CHECKING:
    from pathlib import Path

    from crishim.archive.manifest import Manifest
    from crishim.containerd.cri import Container
    from crishim.tools import runc as runcs

_TCP_OPTIONS: dict[TcpMode, list[str]] = {
    TcpMode.ESTABLISHED: ["--tcp-established"],
    TcpMode.CLOSE: [],  # a word of CRIU's configuration
    TcpMode.REFUSE: [],  # CRIU refuses an open connection without the option
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreOptions:
    """What a caller asks for; None stands for the default.

    Attributes:
        address: by default kept if the dump ended its source.
        tcp: by default established if the address is kept.
        once: the pod named the checkpoint, for the first start of that container only.
        allow_privileges: processes may have more rights than the container's specification gives.
    """

    address: AddressMode | None = None
    tcp: TcpMode | None = None
    on_failure: OnFailure = OnFailure.FAIL
    once: bool = False
    allow_privileges: bool = False


def plan_of(
    created: Container,
    archive: Path | None,
    manifest: Manifest,
    options: RestoreOptions,
    *,
    pod_uid: str,
) -> plans.RestorePlan:
    """Fill in the defaults: what a running source still owns is not taken from it.

    Args: archive: None while it is still to be taken.
    """
    own = not manifest.options.source_running and manifest.interfaces
    address = options.address or (AddressMode.KEEP if own else AddressMode.NEW)
    kept = address is AddressMode.KEEP
    closed = manifest.options.tcp == TcpMode.CLOSE
    tcp = options.tcp or (TcpMode.ESTABLISHED if kept and not closed else TcpMode.CLOSE)
    if closed and tcp is not TcpMode.CLOSE:
        raise Precondition(
            f"{archive} was written with its connections closed", hint='restore with tcp "close"'
        )
    if tcp is TcpMode.ESTABLISHED and not kept:
        raise Precondition(
            "established connections cannot be kept with a new address",
            hint='ask for address "keep", or for tcp "close"',
        )
    return plans.RestorePlan(
        sandbox=created.sandbox,
        archive=str(archive or ""),
        address=address,
        tcp=tcp,
        on_failure=options.on_failure,
        once=options.once,
        pod_uid=pod_uid,
        container_name=created.status.metadata.name,
        interfaces=manifest.interfaces,
        losses=tuple(asdict(loss) for loss in manifest.losses),
    )


def runc_options(
    directory: Path, images: Path, plan: plans.RestorePlan, facts: runcs.RuncFacts
) -> list[str]:
    """Return the words that a restore's directory gives to `runc restore`."""
    options = ["--image-path", str(images), "--work-path", str(directory / "work")]
    options += ["--manage-cgroups-mode", facts.cgroups_mode, "--file-locks", "--ext-unix-sk"]
    return options + _TCP_OPTIONS[plan.tcp]
