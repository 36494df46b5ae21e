"""What a run of the soak does, chosen by its seed alone."""

from __future__ import annotations

import random
from dataclasses import dataclass

OPERATIONS = ("dump", "stop", "restore", "start", "receive")
FAULTS = (
    *("none", "cancel", "daemon", "guardian", "guardian+daemon", "daemon+guardian"),
    *("containerd", "containerd+daemon", "container", "pod"),
)
GUARDED = ("dump", "stop", "receive")  # the operations that have a guardian


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one run does.

    Attributes:
        at: the place of the fault among the steps of the operation, from 0 to 1.
        delay_s: from the begin of that step.
        target: whose container or pod is deleted: "source" or "successor".
        afterwards: what went on is moved once more in the end.
        point: in place of `at`, a point of `failpoint/`.
    """

    operation: str
    fault: str = "none"
    seed: int = 0
    at: float = 0.0
    delay_s: float = 0.0
    target: str = "source"
    afterwards: bool = False
    point: str = ""

    @classmethod
    def of(cls, seed: int) -> Plan:
        """Choose by a seed."""
        chance = random.Random(seed)
        operation = chance.choice(OPERATIONS)
        faults = [f for f in FAULTS if operation in GUARDED or "guardian" not in f]
        target = "successor" if operation in ("restore", "start") else "source"
        if operation == "receive" and chance.random() < 0.5:
            target = "successor"
        delay_s = chance.choice([0.0, 0.0, chance.uniform(0, 0.02), chance.uniform(0, 0.3)])
        if operation == "start":
            delay_s = chance.uniform(0, 0.5)
        return cls(
            seed=seed,
            operation=operation,
            fault=chance.choice(faults),
            at=chance.random(),
            delay_s=round(delay_s, 4),
            target=target,
            afterwards=chance.random() < 0.3,
        )
