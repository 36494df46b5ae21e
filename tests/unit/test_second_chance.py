"""What `scripts/test` tries once more: waits that ran out of time, few, and nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFTEST = """
from pathlib import Path
from tests.e2e.second_chance import SecondChance
def pytest_configure(config):
    config.pluginmanager.register(SecondChance(Path("test-logs")))
"""
TESTS = """
from pathlib import Path
import pytest
from tests.e2e.waiting import StillWaiting, eventually

def attempt(name):
    file = Path(name)
    file.write_text(file.read_text() + "x" if file.exists() else "x")
    return len(file.read_text())

def slow_at_first(name):
    if attempt(name) == 1:
        eventually(lambda: False, within_s=0, what="nobody is ready")

def test_first():
    slow_at_first("first")

def test_wrong():
    assert attempt("wrong") == 2, "data"

@pytest.fixture
def leaky():
    yield
    assert attempt("leaky") == 2, "left behind"

def test_leak(leaky):
    pass

@pytest.fixture
def prepared():
    slow_at_first("prepared")

def test_second(prepared):
    pass

def test_third():
    slow_at_first("third")

def test_never():
    raise StillWaiting("never")
"""


@pytest.fixture
def run(tmp_path):
    """Run pytest over TESTS, or the ones that are named."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "pytest.toml").write_text("[pytest]\n")

    def run(*names: str, **env: str) -> str:
        argv = [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", "-p", "no:asyncio"]
        done = subprocess.run(
            [*argv, *(f"test_it.py::{name}" for name in names)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **env},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.strip()

    return run


def test_only_waits_are_tried_again_and_two_of_them(run, tmp_path):
    said = run(CRISHIM_TEST_FLAKY=str(tmp_path / "flaky" / "list"))
    assert "3 failed, 3 passed, 1 error, 2 flaky" in said.splitlines()[-1]
    for name in ("wrong", "leaky", "third"):
        assert (tmp_path / name).read_text() == "x", said
    for name in ("first", "prepared"):
        assert (tmp_path / name).read_text() == "xx", said
    listed = (tmp_path / "flaky" / "list").read_text().splitlines()
    assert [line.split("::")[1].split(":")[0] for line in listed] == ["test_first", "test_second"]
    assert "nobody is ready" in (tmp_path / "flaky" / "test_first" / "failure.txt").read_text()
    assert "tried once more" in said and "nobody is ready" in said


def test_a_wait_in_vain_twice_is_a_failure(run, tmp_path):
    said = run("test_never", CRISHIM_TEST_FLAKY=str(tmp_path / "flaky" / "list"))
    assert "1 failed, 1 flaky" in said.splitlines()[-1]


def test_chances_are_counted_over_all_parts_of_a_run(run, tmp_path):
    (tmp_path / "flaky").mkdir()
    (tmp_path / "flaky" / "list").write_text("one\ntwo\n")
    run("test_first", CRISHIM_TEST_FLAKY=str(tmp_path / "flaky" / "list"))
    assert (tmp_path / "first").read_text() == "x"


def test_nothing_is_tried_again_outside_scripts_test(run, tmp_path):
    assert "1 failed" in run("test_first", CRISHIM_TEST_FLAKY="").splitlines()[-1]
    assert (tmp_path / "first").read_text() == "x"
