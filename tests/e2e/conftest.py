"""Fixtures of the tests on real nodes; see `nodes.py`, and `leaks.py` for the guard.

One lab serves all tests of a run. Each test ends with nothing left that it did not find; on failure
the logs of the node are put into one folder per test under test-logs/.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.e2e import leaks, nodes

LOGS = nodes.ROOT / "test-logs"


def lab_options() -> list[str]:
    """Return options of `scripts/lab up` from CRISHIM_TEST_LAB, such as "--cni ptp"."""
    return os.environ.get("CRISHIM_TEST_LAB", "").split()


@pytest.fixture(scope="session")
def lab_up(tmp_path_factory):
    """A running lab with the workload's image on its nodes."""
    nodes.lab("up", *lab_options(), timeout_s=1200)
    directory = tmp_path_factory.mktemp("image")
    nodes.lab("go", str(nodes.ROOT / "tests" / "workload"), str(directory / "workload"))
    (directory / "tmp").mkdir()
    nodes.lab("image", nodes.IMAGE, str(directory), "--", "/workload")
    yield
    if not os.environ.get("CRISHIM_TEST_KEEP_LAB"):
        nodes.lab("down")


@pytest.fixture
def node(lab_up, request):
    """The first node, clean before and after the test."""
    node = nodes.Node("node1")
    before = leaks.snapshot(node)
    yield node
    failed = getattr(request.node, "failed", False)
    if failed:
        keep_logs(request.node.name)
    node.clean()
    leaked = leaks.wait_clean(node, before)
    assert failed or not leaked, f"left behind: {leaked}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Let fixtures know whether their test failed."""
    outcome = yield
    if outcome.get_result().failed:
        item.failed = True


def keep_logs(name: str) -> None:
    """Copy what the node logged, and dumps that failed, into the test's folder."""
    folder = LOGS / re.sub(r"[^\w.-]+", "_", name)
    folder.mkdir(parents=True, exist_ok=True)
    for title, argv in {
        "node.log": ["logs", "node1"],
        "dumps.tar": ["exec", "node1", "--", "tar", "-C", "/var/lib/crishim", "-cf", "-", "logs"],
    }.items():
        with Path(folder / title).open("wb") as file:
            subprocess.run(
                [str(nodes.LAB), *argv], stdout=file, stderr=subprocess.STDOUT, check=False
            )
