"""The archive gets its name; what that means for a source that is to end stands in `ending`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crishim.aio.lanes import Lane
from crishim.aio.shield import in_thread, to_the_end
from crishim.dump.ending import Ending

if TYPE_CHECKING:
    from crishim.archive.writer import ArchiveWriter
    from crishim.dump.pack import Packed


async def publish(packed: Packed) -> int:
    """Let the archive appear; of a source that is to end this is the point of no return.

    Returns: its size in bytes.
    Raises: as `ArchiveWriter.publish`; as `Ending.run` of a source that is to end.
    On cancel: a source that goes on leaves no archive that its caller is not told of; the end of
        the other is waited for.
    """
    prepared = packed.frozen.prepared
    parts = prepared.parts
    if prepared.record is None:
        with parts.phases.step("publish", deadline=False):
            return await _appear(prepared.writer)
    ending = Ending(
        held=parts.context.held,
        writer=prepared.writer,
        workspace=parts.workspace,
        container=parts.source.container.id,
        record=prepared.record,
        handover=parts.handover,
        images=packed.images,
        rollback=parts.rollback,
    )
    return await to_the_end(ending.run(parts.phases))


async def _appear(writer: ArchiveWriter) -> int:
    def appear() -> int:
        writer.publish()
        return writer.make_durable()

    try:
        return await in_thread(appear, lane=Lane.BULK)
    except BaseException:
        # It may have appeared all the same; whoever asked is told that there is none.
        if await in_thread(writer.appeared, lane=Lane.PAUSE):
            await in_thread(writer.withdraw, lane=Lane.PAUSE)
        raise
