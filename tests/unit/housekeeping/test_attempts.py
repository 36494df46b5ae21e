"""Pieces of work of which each is on its own."""

import logging

from crishim.housekeeping.attempts import Attempts


async def test_what_fails_is_said_once_and_costs_the_others_nothing(caplog):
    pieces, done = Attempts(), []

    async def broken():
        raise OSError("no")

    async def fine():
        done.append("fine")

    for _ in range(2):
        pieces.new_round()
        assert not await pieces.attempt(broken(), "broken")
        assert pieces.failing
        assert await pieces.attempt(fine(), "fine")
    assert done == ["fine", "fine"] and pieces.failing
    assert [r.levelno for r in caplog.records if "broken" in r.message] == [logging.ERROR]


async def test_what_could_not_be_done_is_done_once_more_and_then_no_more():
    pieces, tried = Attempts(), []

    async def second_time():
        tried.append(len(tried))
        if len(tried) < 2:
            raise OSError("not yet")

    await pieces.until_done(second_time, "piece")
    assert tried == [0] and pieces.failing
    for _ in range(2):
        pieces.new_round()
        await pieces.again()
    assert tried == [0, 1] and not pieces.failing
