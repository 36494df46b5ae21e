"""Who still works in a directory is waited for, and what cannot be looked at counts as at work."""

from crishim.tools import atwork, stillatwork


async def test_all_processes_are_looked_through_once_and_not_at_every_turn(tmp_path, monkeypatch):
    looks, alive = [], iter([True, True, True, False])
    monkeypatch.setattr(
        atwork, "tool_of", lambda _: looks.append(1) or (7 if len(looks) == 1 else 0)
    )
    monkeypatch.setattr(atwork, "is_tool", lambda *_: next(alive))
    assert await stillatwork.tools_ended(tmp_path)
    assert len(looks) == 2


async def test_a_process_that_cannot_be_looked_at_has_not_ended(tmp_path, monkeypatch):
    answers = iter([OSError(24, "Too many open files"), True, False])

    def is_tool(*_):
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    found = iter([7, 0])
    monkeypatch.setattr(atwork, "tool_of", lambda _: next(found))
    monkeypatch.setattr(atwork, "is_tool", is_tool)
    assert await stillatwork.tools_ended(tmp_path)
    assert next(answers, None) is None
