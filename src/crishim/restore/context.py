"""What all restores of one daemon share. This module must never know one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crishim.container.resolve import Resolver
    from crishim.containerd.cri import Cri
    from crishim.containerd.records import Records
    from crishim.flow.locks import Locks
    from crishim.paths import Paths
    from crishim.restore.images import ImageDirectories
    from crishim.restore.restored import Restored
    from crishim.restore.revive import Reviver
    from crishim.sandbox.addresses import PreservedAddresses


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreContext:
    """What all restores of one daemon share.

    Attributes:
        images: makes an archive's page images ready for CRIU.
        restored: which pods have had their restore.
        reviver: starts a container that is ready.
    """

    cri: Cri
    records: Records
    resolver: Resolver
    paths: Paths
    locks: Locks
    addresses: PreservedAddresses
    images: ImageDirectories
    restored: Restored
    reviver: Reviver
