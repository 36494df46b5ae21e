"""Make the runs on a node of their own, and print the table of them."""

from __future__ import annotations

import argparse
import collections
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("CRISHIM_LAB_NAME", "soak")

from tests.e2e import nodes
from tests.e2e.soak.agent import Agent
from tests.e2e.soak.plan import FAULTS, Plan
from tests.e2e.soak.run import Outcome
from tests.e2e.soak.runs import Runs, told, warm_up

LOGS = nodes.ROOT / "test-logs" / "soak"


def table(outcomes: list[Outcome]) -> str:
    """Return the runs by fault and outcome."""
    head = ("fault", "runs", "struck", "runs on", "restored", "deleted", "WRONG", "leaks", "resets")
    by_fault = collections.defaultdict(list)
    for outcome in outcomes:
        by_fault[outcome.plan.fault].append(outcome)
    groups = [(name, by_fault[name]) for name in FAULTS if name in by_fault]
    rows: list[tuple[object, ...]] = [head]
    for name, group in [*groups, ("all", outcomes)]:
        ways = collections.Counter(o.how for o in group if o.good)
        bad = (not o.good for o in group), (bool(o.leaks) for o in group)
        rows.append(
            (
                *(name, len(group), sum(o.struck for o in group)),
                *(ways["runs"], ways["restored"], ways["deleted"]),
                *(sum(bad[0]), sum(bad[1]), sum(bool(o.resets) for o in group)),
            )
        )
    return "\n".join(f"{row[0]:20}" + "".join(f"{cell:>10}" for cell in row[1:]) for row in rows)


def main() -> int:
    """Bring a node up, make the runs, take it down; 1 if any of them went wrong."""
    parser = argparse.ArgumentParser(prog="scripts/test soak", description=__doc__.splitlines()[0])
    parser.add_argument("count", type=int, nargs="?", default=500)
    parser.add_argument("seed", type=int, nargs="?", default=random.SystemRandom().randrange(10**6))
    options = parser.parse_args()
    subprocess.run([str(nodes.LAB), "up"], check=True, stdin=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as name:
        image = Path(name)
        nodes.lab("go", str(nodes.ROOT / "tests" / "workload"), str(image / "workload"))
        (image / "tmp").mkdir()
        nodes.lab("image", nodes.IMAGE, str(image), "--", "/workload")
    agent = Agent("node1")
    outcomes: list[Outcome] = []
    began = time.monotonic()
    try:
        warm_up(agent)
        runs = Runs(agent, LOGS)
        runs.learn()
        for operation, steps in runs.steps.items():
            print(f"{operation}: {' '.join(steps) or 'no steps are told'}")
        last = options.seed + options.count - 1
        print(f"{options.count} runs, seeds {options.seed} to {last}", flush=True)
        for number in range(options.count):
            outcomes.append(runs.one(Plan.of(options.seed + number)))
            print(told(number + 1, outcomes[-1]), flush=True)
    finally:
        if outcomes:
            each_s = (time.monotonic() - began) / len(outcomes)
            print(f"\n{table(outcomes)}\n{each_s:.1f} s a run")
        agent.close()
        if not os.environ.get("CRISHIM_TEST_KEEP_LAB"):
            nodes.lab("down")
    wrong = [outcome.plan.seed for outcome in outcomes if not outcome.good]
    if wrong:
        print(f"wrong: seeds {' '.join(map(str, wrong))}; logs are in {LOGS}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
