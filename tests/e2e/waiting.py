"""Waits of the tests: for conditions, never for times, and never without an end.

A wait that runs out of time says so in a way of its own, because it is the one failure that a
starved machine can cause: `second_chance.py` may try such a test once more. What is wrong once
(data, order, a connection, an outcome, something left behind) is an ordinary AssertionError.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class StillWaiting(AssertionError):
    """Something that the test waits for has not happened in the time that it had."""


def eventually(
    condition: Callable[[], T],
    *,
    within_s: float = 20,
    what: object = "",
    every_s: float = 0.1,
    outcome: bool = False,
) -> T:
    """Wait until a condition holds and return what it gave.

    Args:
        what: told when the time is up; a callable is asked then.
        outcome: what is waited for is what the test is about: if it does not come, that is wrong
            and no sign of a busy machine.
    Raises: StillWaiting, or AssertionError for an outcome: it does not hold after `within_s`.
    """
    end = time.monotonic() + within_s
    while not (given := condition()):
        if time.monotonic() > end:
            told = what() if callable(what) else what
            failure = AssertionError if outcome else StillWaiting
            raise failure(f"after {within_s} s: {told or 'still not so'}")
        time.sleep(every_s)
    return given
