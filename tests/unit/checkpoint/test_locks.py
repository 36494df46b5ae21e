"""One operation on a container at a time."""

import pytest

from crishim.checkpoint.locks import Locks
from crishim.errors import Busy
from crishim.ids import ContainerId

ONE, OTHER = ContainerId("one"), ContainerId("other")


def test_a_second_operation_is_told_what_is_under_way():
    locks = Locks()
    with locks.hold(ONE, "checkpoint"), locks.hold(OTHER, "restore"):
        assert locks.busy(ONE) and locks.busy(OTHER)
        message = "a checkpoint of container one is under way"
        with pytest.raises(Busy, match=message), locks.hold(ONE, "restore"):
            pytest.fail("two own it")
        assert locks.busy(ONE)
    assert not locks.busy(ONE)


def test_a_failed_operation_lets_go():
    locks = Locks()
    with pytest.raises(ValueError, match="broken"), locks.hold(ONE, "checkpoint"):
        raise ValueError("broken")
    assert not locks.busy(ONE)
