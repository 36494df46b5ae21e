"""One run: a server, its client, an operation with a fault, and what comes of it."""

from __future__ import annotations

import contextlib
import subprocess
import time
import traceback
import uuid
from dataclasses import dataclass, field

from tests.e2e import leaks, nodes
from tests.e2e.soak.agent import Agent, Refused
from tests.e2e.soak.plan import Plan

ARCHIVE = "/var/lib/crishim/soak.tar"
CLEAN_WITHIN_S = 30.0
SETTLES_WITHIN_S = 25.0
ANSWERS = 20
# CRIU has begun to make the sockets: from here on a deletion ends a server that runs again.
RESTORED = ("restore", "release", "finish")
BEFORE_A_DUMP = ("compare", "address", "exchange", "wait")
"""Steps of a restore that waits for a dump."""
MEMORY_MB = "8"


class Wrong(AssertionError):
    """A run did not end as it must."""


@dataclass
class Outcome:
    """What became of a run."""

    plan: Plan
    how: str = ""
    wrong: str = ""
    struck: bool = False
    resets: list[str] = field(default_factory=list)
    leaks: dict = field(default_factory=dict)
    told: dict = field(default_factory=dict)
    took_s: float = 0.0

    @property
    def good(self) -> bool:
        """Whether the run ended as it must."""
        return not (self.wrong or self.leaks)


class Run:
    """One run; `go` and then `end` it once."""

    def __init__(self, agent: Agent, plan: Plan, steps: dict[str, list[str]]) -> None:
        self._agent, self._plan, self._steps = agent, plan, steps
        self.outcome = Outcome(plan=plan)
        self._client: nodes.Client | None = None
        self._sum = ""
        self._source = self._successor = ""
        self._pods: dict[str, tuple[str, dict]] = {}
        self._owner: dict[str, str] = {}
        self._address = ""

    def go(self) -> Outcome:
        """Go through the run; what is wrong stands in the outcome."""
        try:
            self._begin()
            self._operate()
            self._conclude()
        except AssertionError as error:
            self.outcome.wrong = f"{type(error).__name__}: {error}"
            if not isinstance(error, (Wrong, Refused)):
                self.outcome.wrong += "\n" + traceback.format_exc()
        return self.outcome

    def _pod(self) -> str:
        name = f"soak-{uuid.uuid4().hex[:6]}"
        config = {
            "metadata": {"name": name, "namespace": "default", "uid": str(uuid.uuid4())},
            "log_directory": f"/var/log/pods/{name}",
            "linux": {},
        }
        pod = self._agent("pod", config=config)["pod"]
        self._pods[pod] = (name, config)
        return pod

    def _create(self, pod: str, image: str, *, start: bool) -> str:
        config = {
            "metadata": {"name": "main"},
            "image": {"image": image},
            "args": ["/workload", "-memory-mb", MEMORY_MB],
            "log_path": f"{uuid.uuid4().hex[:8]}.log",
            "linux": {},
        }
        words = {"pod": pod, "config": config, "pod_config": self._pods[pod][1], "start": start}
        container = self._agent("create", **words)["container"]
        self._owner[container] = pod
        return container

    def _ask(self, line: str) -> str:
        return self._agent("ask", address=self._address, line=line)["answer"]

    def _begin(self) -> None:
        """A server that runs, with a client; for a restore it is stopped already."""
        pod = self._pod()
        self._source = self._create(pod, nodes.IMAGE, start=True)
        self._address = self._agent("address", pod=pod)["address"]
        self._client = nodes.Client(self._address)
        self._client.wait_answers(ANSWERS)
        self._sum = self._ask("sum")
        operation = self._plan.operation
        if operation in ("restore", "start"):
            self._stop(self._source)
            self._remove(pod)
        if operation == "receive" or operation == "restore":
            self._successor = self._create(self._pod(), nodes.IMAGE, start=False)
        elif operation == "start":
            self._successor = self._create(self._pod(), ARCHIVE, start=False)

    def _stop(self, container: str) -> None:
        told = self._operation("stop", container=container)
        if told["code"] != "OK":
            raise Wrong(f"a checkpoint without a fault failed: {told}")

    def _remove(self, *pods: str) -> None:
        failed = self._agent("remove", pods=list(pods))["failed"]
        if failed:
            raise Wrong(f"pods that cannot be removed: {failed}")
        for pod in pods:
            self._pods.pop(pod, None)

    def _operation(self, operation: str, *, container: str = "", fault: dict | None = None) -> dict:
        target = self._successor if self._plan.target == "successor" else self._source
        return self._agent(
            "operate",
            operation=operation,
            container=container or self._source,
            successor=self._successor,
            archive=ARCHIVE,
            fault=fault or {"what": "none"},
            target={"container": target, "pod": self._owner.get(target, "")},
        )

    def _operate(self) -> None:
        plan, steps = self._plan, self._steps[self._plan.operation]
        if "guardian" in plan.fault:  # there is none before this step, nor while a restore waits
            steps = [s for s in steps[steps.index("guard") + 1 :] if s not in BEFORE_A_DUMP]
        phase = steps[int(plan.at * len(steps))] if steps else ""
        fault = {
            "what": plan.fault,
            "phase": phase,
            "point": plan.point,
            "delay_s": plan.delay_s,
        }
        told = self._operation(plan.operation, fault=fault)
        self.outcome.told = {"at": plan.point or phase, **told}
        self.outcome.struck = bool(told["fault"]["done"])
        if plan.fault == "none" and told["code"] != "OK":
            raise Wrong(f"without a fault it failed: {told['code']} {told['details']}")
        back_s = self._agent("back")["back_s"]
        if back_s is None:
            raise Wrong("crishim or containerd is not back")
        self.outcome.told["back_s"] = round(back_s, 2)

    @property
    def _deleted(self) -> str:
        """Whose deletion was begun: "source", "successor" or ""."""
        asked = self._plan.fault in ("container", "pod")
        return self._plan.target if asked and self.outcome.told["fault"]["done"] else ""

    def _look(self) -> tuple[str, str, str]:
        seen = self._agent("states", containers=[self._source, self._successor], archive=ARCHIVE)
        return (*seen["states"], seen["archive"])

    def _settle(self) -> tuple[str, str, str]:
        """Wait until it is clear who lives; recovery may have to end or adopt somebody first."""
        end = time.monotonic() + SETTLES_WITHIN_S
        while True:
            source, successor, archive = self._look()
            stopping = self._plan.operation != "dump"
            both = "RUNNING" in source and "RUNNING" in successor
            undecided = stopping and archive and source == "RUNNING"
            if not both and not undecided:
                return source, successor, archive
            if time.monotonic() > end:
                raise Wrong(f"source {source}, successor {successor}, archive {archive!r}")
            time.sleep(0.1)

    def _conclude(self) -> None:
        plan, told = self._plan, self.outcome.told
        self._delete_at_last()
        source, successor, archive = self._settle()
        told["states"] = {"source": source, "successor": successor, "archive": archive}
        if archive not in ("", "whole"):
            raise Wrong(f"a damaged archive under the final name: {archive}")
        if "RUNNING" in (source, successor):
            self.outcome.how = "runs"
            self._goes_on()
            if plan.afterwards:
                self._move_again(self._source if source == "RUNNING" else self._successor)
        elif self._ended_by_its_deletion():
            self.outcome.how = "deleted"
            if self._plan.operation == "dump" and archive:
                self._copy()
        elif successor == "CREATED" and self._starts_after_all():
            self.outcome.how = "restored"
            self._goes_on()
        elif archive:
            self.outcome.how = "restored"
            self._restore()
        else:
            raise Wrong("neither does it run nor is there an archive")

    def _delete_at_last(self) -> None:
        """Whoever deletes asks again until it is done: once more has to do."""
        failed = [what for what in self.outcome.told["fault"]["done"] if what.startswith("not ")]
        if failed and self._plan.fault == "pod":
            target = self._successor if self._plan.target == "successor" else self._source
            pods = self._agent("pods")["pods"]
            if self._owner[target] in pods:
                self._remove(self._owner[target])

    def _ended_by_its_deletion(self) -> bool:
        """Whether the server went because somebody deleted it while it ran."""
        told = self.outcome.told
        if not self._deleted:
            return False
        if self._deleted == "source":
            # A dump that does not stop its source keeps nothing of its connections.
            return self._plan.operation == "dump" or not told["states"]["archive"]
        restored = told.get("restore", told)["code"] == "OK"
        # The steps of `start` are not told.
        return restored and (self._plan.operation == "start" or told["fault"]["in"] in RESTORED)

    def _starts_after_all(self) -> bool:
        """Whether the next start restores what one has not; the client tells that from cold."""
        if self._plan.operation not in ("start", "receive"):
            return False
        told = self.outcome.told
        if self._plan.operation == "receive" and "wait" not in told.get("restore", told)["steps"]:
            return False  # broken off before it was ready: it is an ordinary container again
        end = time.monotonic() + SETTLES_WITHIN_S
        while True:
            code = told["start again"] = self._operation("start")["code"]
            if code == "OK" or self._look()[1] == "RUNNING":
                return True
            # One whose caller has gone goes on to its end.
            if code != "ABORTED" or time.monotonic() > end:
                return False
            time.sleep(0.1)

    def _goes_on(self) -> None:
        """The client has answers, its memory is what it was, and it saw nothing."""
        assert self._client is not None
        self._client.wait_answers(ANSWERS)
        if (now := self._ask("sum")) != self._sum:
            raise Wrong(f"the memory has changed: {now}, it was {self._sum}")
        report = self._client.report()
        self.outcome.resets = report["errors"] + report["wire"]
        if self.outcome.resets or report["counted"] != report["answered"]:
            raise Wrong(f"the client was harmed: {report}")

    def _restore(self) -> None:
        """Restore the archive of a stopped container elsewhere, as its owner would."""
        left = set(self._agent("pods")["pods"]) & set(self._pods)
        self._remove(*left)
        pod = self._pod()
        self._successor = self._create(pod, ARCHIVE, start=False)
        told = self._operation("start")
        if told["code"] != "OK":
            raise Wrong(f"the archive cannot be restored: {told['code']} {told['details']}")
        if (now := self._agent("address", pod=pod)["address"]) != self._address:
            raise Wrong(f"its address was {self._address} and is {now}")
        self._goes_on()

    def _copy(self) -> None:
        """Restore the archive of a container that went on running: a copy, with its memory."""
        pod = self._pod()
        self._successor = self._create(pod, ARCHIVE, start=False)
        told = self._operation("start")
        if told["code"] != "OK":
            raise Wrong(f"the archive cannot be restored: {told['code']} {told['details']}")
        self._address = self._agent("address", pod=pod)["address"]
        if (now := self._ask("sum")) != self._sum:
            raise Wrong(f"the memory of the copy is {now}, not {self._sum}")

    def _move_again(self, container: str) -> None:
        """What went on can be moved: nothing of the fault is in the way."""
        self._agent("unlink", path=ARCHIVE)
        self._stop(container)
        self._restore()

    def end(self, before: dict) -> None:
        """Take everything away; what stays is a leak."""
        if self._client is not None:
            with contextlib.suppress(AssertionError, OSError, subprocess.TimeoutExpired):
                self._client.close()
        self._agent("back")
        left = self._agent("pods")["pods"]
        failed = self._agent("remove", pods=left)["failed"] if left else []
        self._agent("unlink", path=ARCHIVE)
        end = time.monotonic() + CLEAN_WITHIN_S
        while left := leaks.compare(before, self._agent("stock")["stock"]):
            if time.monotonic() > end:
                break
            time.sleep(0.2)
        self.outcome.leaks = {**left, **({"pods": failed} if failed else {})}
