"""What reads and writes archives stands still while a container is frozen, and no longer."""

import contextlib
import threading

import pytest

from crishim.aio import quiet
from crishim.aio.lanes import Lane, threads
from crishim.aio.quiet import between_pieces
from crishim.archive.digest import digest_bytes, digest_range
from crishim.kernel.splice import copy_range
from tests.unit.dump.dumping import bulk_work_ends


@pytest.fixture
def frozen():
    """Freezes a container until what it returns is closed."""
    with contextlib.ExitStack() as all_of_them:

        def freeze():
            one = all_of_them.enter_context(contextlib.ExitStack())
            one.enter_context(quiet.kept())
            return one

        yield freeze


def test_bulk_work_stands_still_until_the_last_goes_on(frozen, monkeypatch):
    monkeypatch.setattr(quiet, "STAND_STILL_S", 60)
    assert bulk_work_ends()
    one, other = frozen(), frozen()
    work = threads(Lane.BULK).submit(between_pieces)
    one.close()
    assert not work.done()
    assert not bulk_work_ends(within_s=0.05)
    other.close()
    work.result(timeout=10)


def test_a_pauses_own_work_goes_on(frozen):
    frozen()
    threads(Lane.PAUSE).submit(between_pieces).result(timeout=10)
    threads(Lane.ORDINARY).submit(between_pieces).result(timeout=10)


def test_a_long_pause_holds_up_nobody_for_ever(frozen, monkeypatch):
    monkeypatch.setattr(quiet, "STAND_STILL_S", 0.0)
    frozen()
    threads(Lane.BULK).submit(between_pieces).result(timeout=10)


def test_what_verifies_and_what_copies_looks_between_its_pieces(frozen, monkeypatch, tmp_path):
    monkeypatch.setattr(quiet, "STAND_STILL_S", 60)
    content = bytes(range(256)) * (9 << 12)
    (tmp_path / "from").write_bytes(content)
    begun = threading.Event()

    def work(read, write):
        begun.set()
        copied = copy_range(read, 0, write, 0, len(content), between=between_pieces)
        return copied, digest_range(write, 0, len(content))

    with (tmp_path / "from").open("rb") as read, (tmp_path / "to").open("w+b") as write:
        pause = frozen()
        working = threads(Lane.BULK).submit(work, read.fileno(), write.fileno())
        assert begun.wait(10)
        assert not (tmp_path / "to").stat().st_size
        pause.close()
        assert working.result(timeout=10) == (len(content), digest_bytes(content))
