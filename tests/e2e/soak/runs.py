"""Runs one after the other on one node, each compared with what the node was before."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

from tests.e2e import nodes
from tests.e2e.soak.agent import Agent
from tests.e2e.soak.plan import OPERATIONS, Plan
from tests.e2e.soak.run import Outcome, Run

WAITING = "waiting"
"""A step that a dump has only while others are under way."""


class Runs:
    """All runs on a node, and the steps that its operations have.

    Args:
        agent: makes the calls; the node has run a pod before.
        logs: gets a folder for each run that goes wrong.
    """

    def __init__(self, agent: Agent, logs: Path) -> None:
        self._agent, self._logs = agent, logs
        self._before = agent("stock")["stock"]
        self.steps: dict[str, list[str]] = {}

    def learn(self, *operations: str) -> None:
        """Go through operations (all of them) without a fault: what steps do they have?"""
        for operation in operations or OPERATIONS:
            self.steps.setdefault(operation, [])
            outcome = self.one(Plan(operation=operation))
            if not outcome.good:
                raise AssertionError(f"{operation}: {outcome.wrong} {outcome.leaks}")
            steps = dict.fromkeys(outcome.told["steps"])
            self.steps[operation] = [step for step in steps if step != WAITING]

    def one(self, plan: Plan) -> Outcome:
        """Make one run; its outcome says what was wrong with it."""
        began = time.monotonic()
        sizes = self._agent("log_sizes")["sizes"]
        run = Run(self._agent, plan, self.steps)
        outcome = run.go()
        if outcome.wrong:
            self._keep_logs(outcome, sizes)
        run.end(self._before)
        outcome.took_s = time.monotonic() - began
        if outcome.leaks:
            self._keep_logs(outcome, sizes)
            self._before = self._agent("stock")["stock"]  # a leak counts once
        return outcome

    def _keep_logs(self, outcome: Outcome, sizes: dict[str, int]) -> None:
        """Copy what the node logged during a run that went wrong."""
        plan = outcome.plan
        name = f"{plan.operation}-{plan.fault}-{plan.point}" if plan.point else str(plan.seed)
        folder = self._logs / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "outcome.json").write_text(json.dumps(asdict(outcome), indent=2))
        node = nodes.Node("node1")
        for path, size in sizes.items():
            text = node.sh(f"tail -c +{size + 1} {path} 2>/dev/null || :")
            (folder / Path(path).name).write_text(text)


def warm_up(agent: Agent) -> None:
    """Let the node make what it makes once and for all: parent cgroups are no leak of a run."""
    node = nodes.Node("node1")
    node.pod().run()
    node.clean()
    agent("back")


def told(number: int, outcome: Outcome) -> str:
    """Return a run as a line, and what was wrong in further ones."""
    plan, fault = outcome.plan, outcome.told.get("fault", {})
    place = f"{outcome.told.get('at', '')}+{plan.delay_s * 1e3:.0f}ms"
    hit = ", ".join(fault.get("done", [])) or "-"
    verdict = outcome.how if outcome.good else "WRONG"
    line = (
        f"{number:4} seed {plan.seed}  {plan.operation:8}{plan.fault:18}{place:24}"
        f"{verdict:9} {outcome.took_s:5.1f} s  ({hit} in {fault.get('in')!r})"
    )
    if outcome.good:
        return line
    return f"{line}\n     {outcome.wrong}\n     left behind: {outcome.leaks}"
