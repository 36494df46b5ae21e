"""Make the runs on a node of their own, and print the table of them."""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("CRISHIM_LAB_NAME", "soak")

from tests.e2e import nodes
from tests.e2e.soak.agent import Agent
from tests.e2e.soak.plan import FAULTS, OPERATIONS, Plan
from tests.e2e.soak.run import Outcome, Run

LOGS = nodes.ROOT / "test-logs" / "soak"


class Soak:
    """All runs, and the table of them."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._before: dict = {}
        self._steps: dict[str, list[str]] = {}
        self.outcomes: list[Outcome] = []

    def learn(self) -> None:
        """Go through each operation without a fault: what steps has it?"""
        self._before = self._agent("stock")["stock"]
        for operation in OPERATIONS:
            plan = Plan(
                seed=0,
                operation=operation,
                fault="none",
                at=0,
                delay_s=0,
                target="source",
                afterwards=False,
            )
            self._steps.setdefault(operation, [])
            outcome = self._one(plan)
            if not outcome.good:
                raise SystemExit(f"{operation} without a fault: {outcome.wrong} {outcome.leaks}")
            self._steps[operation] = [step for step in outcome.told["steps"] if step != "waiting"]
            print(f"{operation}: {' '.join(self._steps[operation]) or 'no steps are told'}")

    def run(self, count: int, seed: int) -> None:
        """Make the runs, each told in a line."""
        for number in range(count):
            outcome = self._one(Plan.of(seed + number))
            self.outcomes.append(outcome)
            self._tell(number, outcome)

    def _one(self, plan: Plan) -> Outcome:
        began = time.monotonic()
        sizes = self._agent("log_sizes")["sizes"]
        run = Run(self._agent, plan, self._steps)
        outcome = run.go()
        if outcome.wrong:
            keep_logs(outcome, sizes)
        run.end(self._before)
        outcome.took_s = time.monotonic() - began
        if outcome.leaks:
            keep_logs(outcome, sizes)
            self._before = self._agent("stock")["stock"]  # a leak counts once
        return outcome

    def _tell(self, number: int, outcome: Outcome) -> None:
        plan, fault = outcome.plan, outcome.told.get("fault", {})
        place = f"{outcome.told.get('at', '')}+{plan.delay_s * 1e3:.0f}ms"
        hit = ", ".join(fault.get("done", [])) or "-"
        verdict = outcome.how if outcome.good else "WRONG"
        print(
            f"{number + 1:4} seed {plan.seed}  {plan.operation:8}{plan.fault:18}{place:18}"
            f"{verdict:9} {outcome.took_s:5.1f} s  ({hit} in {fault.get('in')!r})",
            flush=True,
        )
        if not outcome.good:
            print(f"     {outcome.wrong}\n     left behind: {outcome.leaks}", flush=True)

    def table(self) -> str:
        """Return the runs by fault and outcome."""
        rows = [
            (
                "fault",
                "runs",
                "struck",
                "runs on",
                "restored",
                "deleted",
                "WRONG",
                "leaks",
                "resets",
            )
        ]
        by_fault = collections.defaultdict(list)
        for outcome in self.outcomes:
            by_fault[outcome.plan.fault].append(outcome)
        groups = [(name, by_fault[name]) for name in FAULTS if name in by_fault]
        for name, group in [*groups, ("all", self.outcomes)]:
            ways = collections.Counter(o.how for o in group if o.good)
            rows.append(
                (
                    name,
                    *map(str, (len(group), sum(o.struck for o in group))),
                    *map(str, (ways["runs"], ways["restored"], ways["deleted"])),
                    str(sum(not o.good for o in group)),
                    str(sum(bool(o.leaks) for o in group)),
                    str(sum(bool(o.resets) for o in group)),
                )
            )
        return "\n".join(
            f"{row[0]:20}" + "".join(f"{cell:>10}" for cell in row[1:]) for row in rows
        )


def keep_logs(outcome: Outcome, sizes: dict[str, int]) -> None:
    """Copy what the node logged during a run that went wrong."""
    folder = LOGS / str(outcome.plan.seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "outcome.json").write_text(json.dumps(asdict(outcome), indent=2))
    for path, size in sizes.items():
        node = nodes.Node("node1")
        text = node.sh(f"tail -c +{size + 1} {path} 2>/dev/null || :")
        (folder / Path(path).name).write_text(text)


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
    soak = Soak(agent)
    try:
        warm_up(agent)
        soak.learn()
        print(f"{options.count} runs, seeds {options.seed} to {options.seed + options.count - 1}")
        began = time.monotonic()
        soak.run(options.count, options.seed)
    finally:
        if soak.outcomes:
            print(
                f"\n{soak.table()}\n{(time.monotonic() - began) / len(soak.outcomes):.1f} s a run"
            )
        agent.close()
        if not os.environ.get("CRISHIM_TEST_KEEP_LAB"):
            nodes.lab("down")
    wrong = [outcome.plan.seed for outcome in soak.outcomes if not outcome.good]
    if wrong:
        print(f"wrong: seeds {' '.join(map(str, wrong))}; logs are in {LOGS}")
    return 1 if wrong else 0


def warm_up(agent: Agent) -> None:
    """Let the node make what it makes once and for all: parent cgroups are no leak of a run."""
    node = nodes.Node("node1")
    node.pod().run()
    node.clean()
    agent("back")


if __name__ == "__main__":
    sys.exit(main())
