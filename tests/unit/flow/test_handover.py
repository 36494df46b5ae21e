import asyncio
from pathlib import Path

import pytest

from crishim.errors import Busy, Precondition
from crishim.flow.handover import Handovers
from crishim.ids import ContainerId

SOURCE = ContainerId("a" * 64)
ARCHIVE = Path("/a.tar")
IMAGES = Path("/restore/images")


async def test_the_restore_goes_on_with_the_dump():
    handovers = Handovers()
    assert handovers.take(SOURCE) is None
    with handovers.expect(SOURCE) as restore:
        dump = handovers.take(SOURCE)
        dump.connections_are_held()
        await restore.wait_held()
        dump.archive_appeared(ARCHIVE, IMAGES)
        assert await restore.wait_archive() == (ARCHIVE, IMAGES)
        over = asyncio.ensure_future(dump.wait_over())
        dump.dump_ended()
        assert not over.done()
    assert await over
    assert handovers.take(SOURCE) is None


async def test_a_failed_dump_fails_the_restore_wherever_it_waits():
    with Handovers().expect(SOURCE) as restore:
        waiting = asyncio.ensure_future(restore.wait_held())
        await asyncio.sleep(0)
        restore.dump_ended()
        with pytest.raises(Precondition):
            await waiting
        with pytest.raises(Precondition):
            await restore.wait_archive()


async def test_a_cancelled_restore_leaves_the_dump_on_its_own():
    handovers = Handovers()
    with handovers.expect(SOURCE) as restore:
        waiting = asyncio.ensure_future(restore.wait_held())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        dump = handovers.take(SOURCE)
    dump.connections_are_held()
    dump.archive_appeared(ARCHIVE, IMAGES)
    await dump.wait_over()


async def test_one_restore_at_a_time():
    handovers = Handovers()
    with handovers.expect(SOURCE):
        with pytest.raises(Busy), handovers.expect(SOURCE):
            pass
        assert handovers.take(SOURCE) is not None


async def test_only_one_dump_serves_a_restore():
    """The second one comes while the restore still undoes what the first one's failure undid."""
    handovers = Handovers()
    with handovers.expect(SOURCE):
        first = handovers.take(SOURCE)
        first.connections_are_held()
        first.dump_ended()
        assert handovers.take(SOURCE) is None


async def test_a_dump_learns_that_the_restore_has_failed():
    handovers = Handovers()

    def restore():
        with handovers.expect(SOURCE):
            dumps.append(handovers.take(SOURCE))
            raise ZeroDivisionError

    dumps = []
    with pytest.raises(ZeroDivisionError):
        restore()
    assert not await dumps[0].wait_over()
