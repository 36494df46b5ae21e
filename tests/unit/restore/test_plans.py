"""The plan of a restore on disk."""

import pytest

from crishim.errors import Corrupt
from crishim.restore import plans
from tests.unit.samples import plan


def write(directory):
    return plans.write(
        directory,
        plan=plan(),
        runc="/usr/sbin/runc",
        options=["--image-path", "/images of one"],
        criu_config="network-lock skip\n",
    )


def test_a_plan_survives_the_way_to_disk_and_back(tmp_path):
    write(tmp_path)
    assert plans.read(tmp_path) == plan()


def test_the_wrapper_can_be_run_and_nobody_else_reads_the_rest(tmp_path):
    wrapper = write(tmp_path)
    assert wrapper == tmp_path / "crishim-runc"
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes.pop("crishim-runc") == 0o755
    assert set(modes) == {"runc", "options", "criu.conf", "pending"}
    assert set(modes.values()) == {0o600}


def test_options_are_one_word_a_line(tmp_path):
    write(tmp_path)
    assert (tmp_path / "options").read_text() == "--image-path\n/images of one\n"
    assert (tmp_path / "runc").read_text() == "/usr/sbin/runc\n"


def test_nothing_waits_without_a_plan(tmp_path):
    assert plans.read(tmp_path) is None
    assert plans.read(tmp_path / "missing") is None


def test_a_used_plan_waits_no_more(tmp_path):
    write(tmp_path)
    plans.finish(tmp_path)
    assert plans.read(tmp_path) is None
    assert (tmp_path / "crishim-runc").exists()
    plans.finish(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"interfaces": 3}', '"plan"'])
def test_a_damaged_plan_is_not_taken_for_none(tmp_path, text):
    (tmp_path / "pending").write_text(text)
    with pytest.raises(Corrupt, match="restore plan"):
        plans.read(tmp_path)
