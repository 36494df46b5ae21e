"""Commands in a node without the start of `scripts/lab` for each: one program in it runs them.

Starting `scripts/lab exec` takes a tenth of a second and more, and the tests run thousands of
commands. So a program is started once in the node, by `scripts/lab exec`, which reads what to run
as JSON, a line each, and answers with status and output. Commands that run at the same time have a
program each.
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import threading

_PROGRAM = r"""
import ctypes, json, subprocess, sys
libc = ctypes.CDLL(None)
def ends_with_us():
    libc.prctl(1, 9)
for line in sys.stdin:
    argv = json.loads(line)
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True,
                              preexec_fn=ends_with_us)
        status = done.returncode if done.returncode >= 0 else 128 - done.returncode
        answer = [status, done.stdout.decode(errors="replace"),
                  done.stderr.decode(errors="replace")]
    except OSError as error:
        answer = [127, "", f"cannot run {argv[0]}: {error}"]
    print(json.dumps(answer), flush=True)
"""


class Channel:
    """Runs commands in one node, from any number of threads.

    Args: entrance: the command that runs a command in the node, up to its "--".
        env: environment of the entrance.
    """

    def __init__(self, entrance: tuple[str, ...], env: dict[str, str] | None = None) -> None:
        self._entrance, self._env = entrance, env
        self._free: queue.SimpleQueue[subprocess.Popen[str]] = queue.SimpleQueue()

    def run(self, argv: list[str], *, timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Run a command to its end.

        Raises: subprocess.TimeoutExpired: it takes longer; it is killed then.
            ConnectionError: the node has ended.
        """
        runner = self._take()
        assert runner.stdin is not None and runner.stdout is not None
        killer = threading.Timer(timeout_s, runner.kill)
        killer.start()
        line = ""
        with contextlib.suppress(OSError):  # it has ended
            runner.stdin.write(json.dumps(argv) + "\n")
            runner.stdin.flush()
            line = runner.stdout.readline()
        late = not killer.is_alive()
        killer.cancel()
        if line:
            self._free.put(runner)
            return subprocess.CompletedProcess(argv, *json.loads(line))
        _bury(runner)
        if late:
            raise subprocess.TimeoutExpired(argv, timeout_s)
        raise ConnectionError(f"the node has ended: {argv}")

    def close(self) -> None:
        """End the programs that are not busy."""
        while not self._free.empty():
            _bury(self._free.get())

    def _take(self) -> subprocess.Popen[str]:
        """Return a runner that lives and is not busy."""
        while not self._free.empty():
            runner = self._free.get()
            if runner.poll() is None:
                return runner
            _bury(runner)
        return subprocess.Popen(
            [*self._entrance, "python3", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self._env,
        )


def _bury(runner: subprocess.Popen[str]) -> None:
    """Clear up after a runner that has ended, or is about to."""
    assert runner.stdin is not None and runner.stdout is not None
    runner.kill()
    runner.wait()
    runner.stdout.close()
    with contextlib.suppress(OSError):
        runner.stdin.close()
