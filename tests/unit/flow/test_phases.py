"""Steps of a flow: what is told, what is timed, where a deadline is looked at."""

import pytest

from crishim.errors import DeadlineExceeded
from crishim.flow.phases import Phases

PASSED = 1e-9


def test_steps_are_told_as_they_begin_and_kept_as_they_end():
    told = []
    phases = Phases(listener=lambda name, elapsed_us, *_: told.append((name, elapsed_us)))
    with phases.step("first"):
        assert [name for name, _ in told] == ["first"]
        assert phases.done == []
    with phases.step("second"):
        pass
    assert [phase.name for phase in phases.done] == ["first", "second"]
    first, second = phases.done
    assert second.begun_us >= first.begun_us + first.duration_us
    assert [elapsed_us for _, elapsed_us in told] == [first.begun_us, second.begun_us]


def test_a_failed_step_is_kept_too():
    phases = Phases()
    with pytest.raises(ValueError, match="broken"), phases.step("memory"):
        raise ValueError("broken")
    assert [phase.name for phase in phases.done] == ["memory"]


def test_passed_deadline_names_both_neighbours():
    phases = Phases(timeout_s=PASSED)
    with phases.step("layer", deadline=False):
        pass
    message = "in phase 'layer', before 'pause'"
    with pytest.raises(DeadlineExceeded, match=message), phases.step("pause"):
        pytest.fail("the step was entered")
    assert [phase.name for phase in phases.done] == ["layer"]


def test_deadline_before_the_first_step():
    phases = Phases(timeout_s=PASSED)
    with pytest.raises(DeadlineExceeded, match="in phase 'start'"), phases.step("resolve"):
        pytest.fail("the step was entered")


def test_a_way_that_only_goes_forward_knows_no_deadline():
    phases = Phases(timeout_s=PASSED)
    with phases.step("end", deadline=False):
        pass
    assert [phase.name for phase in phases.done] == ["end"]


def test_time_over_several_steps_counts_what_lies_between():
    phases = Phases()
    for name in ("pause", "memory", "resume"):
        with phases.step(name):
            pass
    pause, _, resume = phases.done
    whole_us = resume.begun_us + resume.duration_us - pause.begun_us
    assert phases.until_us("pause", "resume") == whole_us
