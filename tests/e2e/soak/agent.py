"""The other end of the program on the node that makes the calls: `tests/e2e/agent.py`."""

from __future__ import annotations

import json
import subprocess

from tests.e2e import nodes


class Refused(AssertionError):
    """The node did not do what it was asked for."""


class Agent:
    """The program on the node that makes the calls; see `agent.py`."""

    def __init__(self, node: str) -> None:
        python = (
            "env",
            "PYTHONPATH=/src",
            "/opt/crishim/bin/python",
            "-B",
            "-m",
            "tests.e2e.agent",
        )
        self._process = subprocess.Popen(
            [str(nodes.LAB), "exec", node, "--", *python],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def __call__(self, verb: str, **words: object) -> dict:
        """Make it do something; raise Refused where it could not."""
        answer = self.attempt(verb, **words)
        if "failed_as" in answer:
            raise Refused(f"{verb}: {answer['failed_as']} {answer['said']}")
        return answer

    def attempt(self, verb: str, **words: object) -> dict:
        """Make it do something and return what it says, good or bad."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"verb": verb, **words}) + "\n")
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the agent on the node has ended")
        return json.loads(line)

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()
