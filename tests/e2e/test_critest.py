"""critest, the conformance suite of CRI: through crishim each spec ends as it does without.

Takes about six minutes per containerd, so it runs only when asked for: `pytest -m critest`. Each
containerd has a lab of its own. What differs between two runs straight at containerd says nothing
about crishim; such specs are listed, all others are compared.
"""

import json
import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e import nodes

ENVIRONMENT = {**os.environ, "CRISHIM_LAB_NAME": "critest"}
DIRECT = "/run/containerd/containerd.sock"
THROUGH = "/run/crishim/crishim.sock"
REPORT = "/var/log/critest.json"
RUN_TIMEOUT_S = 900
PASSED_MIN = 75


def lab(*words: str, check: bool = True) -> str:
    done = subprocess.run(
        [str(nodes.LAB), *words],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def containerd(request: pytest.FixtureRequest) -> Iterator[str]:
    """The version of a containerd that runs in a fresh lab."""
    lab("up", "--containerd", request.param)
    yield request.param
    lab("down")


def outcomes(socket: str) -> dict[str, str]:
    """Run critest once; return what became of each spec, by its full name."""
    # Its exit status is 1 as long as any spec fails, and some fail at containerd itself.
    lab("exec", "node1", "--", "critest-lab", socket, f"--ginkgo.json-report={REPORT}", check=False)
    [suite] = json.loads(lab("exec", "node1", "--", "cat", REPORT))
    lab("exec", "node1", "--", "rm", REPORT)
    return {
        " ".join([*spec["ContainerHierarchyTexts"], spec["LeafNodeText"]]): spec["State"]
        for spec in suite["SpecReports"]
        if spec["LeafNodeType"] == "It"
    }


@pytest.mark.critest
@pytest.mark.timeout(3 * RUN_TIMEOUT_S)
@pytest.mark.parametrize("containerd", ["2.4", "1.7"], indirect=True)
def test_each_spec_ends_as_it_does_without_crishim(containerd: str) -> None:
    first, second, through = outcomes(DIRECT), outcomes(DIRECT), outcomes(THROUGH)
    unsteady = {name for name in first if first[name] != second.get(name)}
    changed = {
        name: (first[name], through.get(name))
        for name in first.keys() - unsteady
        if first[name] != through.get(name)
    }
    print(
        f"\ncritest, containerd {containerd}: {summary(first)} directly, {summary(second)} again,"
    )
    print(f"{summary(through)} through crishim; differ between the direct runs: {len(unsteady)}")
    for name in sorted(unsteady):
        print(f"  {first[name]}, {second.get(name)}, through crishim {through.get(name)}: {name}")
    assert not changed
    assert first.keys() == through.keys()
    assert list(through.values()).count("passed") >= PASSED_MIN


def summary(states: dict[str, str]) -> str:
    """Count the outcomes, as in "97 passed, 2 failed, 14 skipped"."""
    counts = {state: list(states.values()).count(state) for state in sorted(set(states.values()))}
    return ", ".join(
        f"{counts[state]} {state}" for state in sorted(counts, key=lambda s: -counts[s])
    )
