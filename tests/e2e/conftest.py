"""Fixtures of the tests on real nodes; see `nodes.py`, and `leaks.py` for the guard.

One lab serves all tests of a run, and one more, with Kubernetes, those that need a kubelet. Each
test ends with nothing left that it did not find; on failure
the logs of the node are put into one folder per test under test-logs/.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e import cluster as kubernetes
from tests.e2e import leaks, nodes
from tests.e2e.second_chance import SecondChance, folder_name

LOGS = nodes.ROOT / "test-logs"
ARCHIVE_DUMPS = ("tar", "-C", "/var/lib/crishim", "-cf", "-", "logs")


def pytest_configure(config):
    config.pluginmanager.register(SecondChance(LOGS))


def pytest_sessionfinish():
    nodes.close_channels()


def lab_options() -> list[str]:
    """Return options of `scripts/lab up` from CRISHIM_TEST_LAB, such as "--cni ptp"."""
    return os.environ.get("CRISHIM_TEST_LAB", "").split()


@pytest.fixture(scope="session")
def lab_up(tmp_path_factory):
    """A running lab with the workload's image on its nodes."""
    nodes.lab("up", *lab_options(), timeout_s=1200)
    check_version(nodes.Node("node1"))
    add_workload(nodes.lab, tmp_path_factory.mktemp("image"))
    first = nodes.Node("node1")
    first.pod().run()  # what a node makes once and for all (parent cgroups) is no leak of a test
    first.clean()
    yield
    if not os.environ.get("CRISHIM_TEST_KEEP_LAB"):
        nodes.lab("down")


def check_version(node: nodes.Node) -> None:
    """Fail where Debian's containerd is no longer the one that was asked for."""
    options = lab_options()
    if "--containerd" in options:
        wanted = options[options.index("--containerd") + 1]
        assert re.search(rf" v?{re.escape(wanted)}\.", node.exec("containerd", "--version"))


def add_workload(lab: Callable[..., str], directory: Path) -> None:
    """Give the image of the tests' own program to the nodes of a lab."""
    lab("go", str(nodes.ROOT / "tests" / "workload"), str(directory / "workload"))
    (directory / "tmp").mkdir()
    lab("image", nodes.IMAGE, str(directory), "--", "/workload")


@pytest.fixture(scope="session")
def cluster_up(tmp_path_factory):
    """A running lab with Kubernetes on two nodes."""
    cluster = kubernetes.Cluster(2)
    up = ("up", *lab_options(), "--kubernetes", "--nodes", str(len(cluster.nodes)))
    cluster.lab(*up, timeout_s=2400)
    add_workload(cluster.lab, tmp_path_factory.mktemp("image"))
    yield cluster
    if not os.environ.get("CRISHIM_TEST_KEEP_LAB"):
        cluster.lab("down")


@pytest.fixture
def cluster(cluster_up, request):
    """The cluster, without a test's pods before and after the test."""
    before = {name: leaks.snapshot(node) for name, node in cluster_up.nodes.items()}
    yield cluster_up
    failed = getattr(request.node, "failed", False)
    if failed:
        for name in (*cluster_up.nodes, "control"):
            keep_logs(request.node.name, name, kubernetes.ENVIRONMENT)
    cluster_up.clean()
    for name, node in cluster_up.nodes.items():
        leaked = leaks.wait_clean(node, before[name], within_s=kubernetes.CLEAN_WITHIN_S)
        assert failed or not leaked, f"left behind on {name}: {leaked}"


@pytest.fixture
def node(lab_up, request):
    """The first node, clean before and after the test."""
    node = nodes.Node("node1")
    before = leaks.snapshot(node)
    yield node
    failed = getattr(request.node, "failed", False)
    if failed:
        keep_logs(request.node.name, "node1", dict(os.environ))
    node.clean()
    if failed:  # what it would have removed must not fail the next test
        node.sh("rm -f /var/lib/crishim/*.tar /var/lib/crishim/checkpoints/*.tar")
    leaked = leaks.wait_clean(node, before)
    assert failed or not leaked, f"left behind: {leaked}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Let fixtures know whether their test failed."""
    outcome = yield
    if outcome.get_result().failed:
        item.failed = True


def keep_logs(name: str, node: str, env: dict[str, str]) -> None:
    """Copy what a node of the lab logged, and dumps that failed, into the test's folder."""
    folder = LOGS / folder_name(name)
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {f"{node}.log": ["logs", node]}
    if node != "control":
        wanted[f"{node}-dumps.tar"] = ["exec", node, "--", *ARCHIVE_DUMPS]
    for title, argv in wanted.items():
        with Path(folder / title).open("wb") as file:
            subprocess.run(
                [str(nodes.LAB), *argv],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=env,
                check=False,
            )
