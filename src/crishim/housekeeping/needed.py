"""Which archives somebody still needs: they are neither replaced nor removed by chance.

What is left of a stopped container is in one archive, and a container that waits for its restore is
nothing without another. Archives are known by what they are, not only by their path: a link, a
second name or a moved file is the same archive. A record or a plan that cannot be read may name any
archive: then none is replaced. New names are nobody's, and never asked about here.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crishim.errors import Busy, Corrupt, Precondition
from crishim.kernel import files
from crishim.restore import plans
from crishim.sandbox.evidence import Standing, standing
from crishim.sandbox.heldrecord import Waits

if TYPE_CHECKING:
    from crishim.paths import Paths
    from crishim.restore.preparing import Preparing
    from crishim.sandbox.held import HeldSandboxes
    from crishim.sandbox.heldrecord import HeldContainer, HeldRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """The archives that the node's records and plans name, and those that are being read."""

    paths: Paths
    held: HeldSandboxes
    preparing: Preparing

    def refuse(self, archive: Path) -> None:
        """Refuse to replace an archive that somebody needs; blocks.

        Raises: Precondition: it is what is left of a stopped container, or nobody knows what the
            node's records and plans name. Busy: a container is to be restored from it.
        """
        if stopped := self.stopped(archive):
            raise Precondition(
                f"{archive} is what is left of container {stopped[1].id[:13]}, which was "
                "stopped by a checkpoint",
                hint="write elsewhere, or restore it and remove the pod it was in first",
            )
        self.refuse_planned(archive)
        self._refuse_unread(archive)

    def stopped(self, archive: Path) -> tuple[HeldRecord, HeldContainer] | None:
        """Return the stopped container whose checkpoint an archive is, and its record; blocks.

        Returns: of several the one of a container whose connections are not restored yet.
        """
        found = [pair for pair in self.held.records.containers() if _is_of(*pair, archive)]
        return min(found, key=lambda pair: pair[0].waits is Waits.NO_MORE, default=None)

    def refuse_planned(self, archive: Path) -> None:
        """Refuse to take an archive away from a container that waits for its restore; blocks.

        Raises: Busy: names the container, which waits or is being prepared. Precondition: a plan
            cannot be read, and may name it.
        """
        if container := self.preparing.container(archive):
            raise Busy(
                f"container {container[:13]} is being prepared to be restored from {archive.stem}",
                hint="try again later, or remove that container first",
            )
        unread: Precondition | None = None
        for directory in self._restores(archive):
            try:
                plan = plans.read(directory)
            except NotADirectoryError:  # something that lies there and is nobody's plan
                continue
            except (Corrupt, OSError) as error:
                unread = _unknown(
                    archive,
                    directory / "pending",
                    error,
                    cure=f"remove container {directory.name[:13]}, which waits for its restore",
                )
                continue
            if plan is not None and plan.archive and files.same(Path(plan.archive), archive):
                raise Busy(
                    f"container {directory.name[:13]} ({plan.container_name}) is to be restored "
                    f"from {archive.stem}",
                    hint="start or remove that container first",
                )
        if unread is not None:
            raise unread

    def _restores(self, archive: Path) -> list[Path]:
        try:
            return files.entries(self.paths.restores)
        except OSError as error:
            raise _unknown(archive, self.paths.restores, error, cure="try again") from error

    def _refuse_unread(self, archive: Path) -> None:
        """Refuse while a record of a stopped container, which may name any archive, is unread."""
        try:
            unread = self.held.records.unread()
        except OSError as error:
            raise _unknown(archive, self.paths.held, error, cure="try again") from error
        if unread:
            cure = "keep the archive that it names, and remove it"
            raise _unknown(archive, unread[0], None, cure=cure)


def _unknown(archive: Path, unread: Path, error: Exception | None, *, cure: str) -> Precondition:
    found = Precondition(
        f"nobody knows whether {archive} is still needed: {unread} cannot be read",
        details=str(error or ""),
        hint=f"write elsewhere; or {cure}",
    )
    found.__cause__ = error
    return found


def _is_of(record: HeldRecord, container: HeldContainer, archive: Path) -> bool:
    if files.same(Path(container.archive), archive):
        return True
    # It may have been moved; its old place is then empty, or somebody else's.
    with contextlib.suppress(OSError):
        if archive.stat().st_ino == container.inode:
            return standing(container, boot_id=record.boot_id) is not Standing.COMMITTED
    return False
