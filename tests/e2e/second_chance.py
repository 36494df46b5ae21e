"""A second chance for a wait that ran out of time, and for nothing else: a part of pytest.

A busy machine can starve a node for seconds, and then a test waits in vain (`StillWaiting`). Such
a test is tried once more, at most twice in a run of `scripts/test`; what the first attempt said
and logged is kept under test-logs/flaky/, it is listed at the end and counted in the summary line.
Every other failure is what it is at once: data, order, connections, outcomes and what is left
behind do not depend on how busy a machine is. Nothing is tried again outside `scripts/test`, which
names the file of what was.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

from tests.e2e.waiting import StillWaiting

FILE = "CRISHIM_TEST_FLAKY"
"""Environment variable with the file that lists, over all parts of a run, what was tried again."""
CHANCES = 2
_OUTCOME = "flaky"


def folder_name(test: str) -> str:
    """Return the name of a test's folder below test-logs/."""
    return re.sub(r"[^\w.-]+", "_", test)


class SecondChance:
    """The plug-in; `logs` is the folder with a folder for each test that failed."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._file = Path(os.environ[FILE]) if os.environ.get(FILE) else None
        self._told: list[str] = []

    def _left(self) -> int:
        """Return how many tests may still be tried again."""
        if self._file is None:
            return 0
        seen = self._file.read_text().splitlines() if self._file.exists() else []
        return CHANCES - len(seen)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item, call):
        """Note which failures are waits that ran out of time."""
        outcome = yield
        report = outcome.get_result()
        if report.failed:
            waited = call.excinfo is not None and call.excinfo.errisinstance(StillWaiting)
            report.still_waiting = waited and report.when != "teardown"

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item, nextitem):
        """Run a test, and once more if all that failed was a wait."""
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        failed = [report for report in reports if report.failed]
        if failed and all(report.still_waiting for report in failed) and self._left() > 0:
            self._keep(item, failed[0])
            for report in failed:
                report.outcome = _OUTCOME
            self._log(item, failed)
            item.failed = False
            item._initrequest()
            reports = runtestprotocol(item, nextitem=nextitem, log=False)
        self._log(item, reports)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _log(self, item, reports) -> None:
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)

    def _keep(self, item, report) -> None:
        """Put what the first attempt said and logged where the second does not overwrite it."""
        assert self._file is not None
        name = folder_name(item.name)
        kept = self._file.parent / name
        kept.mkdir(parents=True, exist_ok=True)
        if (self._logs / name).is_dir():
            shutil.copytree(self._logs / name, kept, dirs_exist_ok=True)
            shutil.rmtree(self._logs / name)
        (kept / "failure.txt").write_text(report.longreprtext)
        line = f"{item.nodeid}: {report.longrepr.reprcrash.message.splitlines()[0]}"
        with self._file.open("a") as file:
            file.write(f"{line}\n")
        self._told.append(f"{line} ({kept})")

    def pytest_report_teststatus(self, report):
        """Give such an outcome a word and a place in the summary line."""
        if report.outcome == _OUTCOME:
            return _OUTCOME, "W", "WAITED IN VAIN, once more"
        return None

    def pytest_terminal_summary(self, terminalreporter):
        """List them at the end."""
        if self._told:
            terminalreporter.section("waits that ran out of time and were tried once more")
            for line in self._told:
                terminalreporter.line(line)
