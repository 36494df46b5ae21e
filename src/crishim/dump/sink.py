"""Where the memory pages of a dump go; `write_memory` knows no more of it than this.

CRIU writes pages either into files of its image directory, which may be anything that can be opened
for writing, or to a page server. This module must never know a taker of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType


class PageReceiver(Protocol):
    """Takes the pages of one call of CRIU.

    Enter its `async with` block before CRIU starts. Leaving it lets go of everything; CRIU must
    have ended by then, and is never left blocked.
    """

    @property
    def received_bytes(self) -> int:
        """How much has come so far; any thread may ask."""

    async def __aenter__(self) -> Self:
        """Be ready for CRIU."""

    async def finish(self) -> int:
        """Receive what is left, after CRIU has ended; the processes may go on afterwards.

        Returns: bytes of all pages.
        Raises: CrishimError: they have not all come, whatever CRIU says.
        """

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> bool | None:
        """Let go of everything; waits for what is under way."""


class PageSink(Protocol):
    """Where the pages of one dump go."""

    @property
    def runc_args(self) -> tuple[str, ...]:
        """Options of `runc checkpoint` that send the pages there; none for files."""

    def receiver(self, images: Path, *, processes: int) -> PageReceiver:
        """Return what takes the pages.

        Args: images: CRIU's empty image directory. processes: how many are dumped.
        """
