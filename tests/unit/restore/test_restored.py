"""Marks of restores: two texts are known, and a third one is not guessed."""

import pytest

from crishim.errors import Precondition
from crishim.ids import container_id
from crishim.paths import Paths
from crishim.restore.restored import Restored

POD = {"pod_uid": "uid", "container": "counter"}


@pytest.fixture
def restored(tmp_path):
    return Restored(Paths(state=tmp_path / "state", run=tmp_path / "run"))


def test_what_is_written_is_read(restored):
    assert not restored.before(**POD) and restored.unsettled(**POD) is None
    restored.begin(**POD, into=container_id("c0"))
    assert not restored.before(**POD) and restored.unsettled(**POD) == "c0"
    restored.mark(**POD)
    assert restored.before(**POD) and restored.unsettled(**POD) is None


@pytest.mark.parametrize("text", ["done\n", '{"version": 2}', "\0"])
def test_a_mark_of_a_later_version_is_neither_a_restore_nor_none(restored, tmp_path, text):
    restored.mark(**POD)
    [mark] = (tmp_path / "state").rglob("counter")
    mark.write_text(text)
    for ask in (restored.before, restored.unsettled):
        with pytest.raises(Precondition, match="says something that this crishim does not know"):
            ask(**POD)
    assert mark.read_text() == text
