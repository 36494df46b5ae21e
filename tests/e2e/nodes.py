"""The lab as the tests see it: nodes, pods, containers, the client outside.

Everything goes through `scripts/lab` and crictl, as an operator would do it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e import channel

ROOT = Path(__file__).resolve().parents[2]
LAB = ROOT / "scripts" / "lab"
CLIENT = ROOT / "tests" / "workload" / "client.py"
IMAGE = "crishim.test/workload:1"


class CommandFailed(AssertionError):
    """A command of the lab ended with an error; carries its output."""

    def __init__(self, argv: list[str], done: subprocess.CompletedProcess[str]) -> None:
        super().__init__(f"{' '.join(argv)}: {done.returncode}\n{done.stdout}{done.stderr}")
        self.status = done.returncode
        self.stderr = done.stderr


PORT = 9000
_LISTENS = """
import json, os, subprocess, sys, time
container, port = sys.argv[1], int(sys.argv[2])
shown = subprocess.run(["crictl", "inspect", container], capture_output=True, check=True).stdout
pid = json.loads(shown)["info"]["pid"]
end = time.monotonic() + 20
while pid and os.path.exists(f"/proc/{pid}/fd") and time.monotonic() < end:
    try:
        files = [open(f"/proc/{pid}/net/{name}") for name in ("tcp", "tcp6")]
        lines = [line.split() for file in files for line in file]
    except OSError:
        break
    if any(line[1].endswith(f":{port:04X}") and line[3] == "0A" for line in lines):
        break
    time.sleep(0.01)
"""
_CHANNELS: dict[tuple[str, ...], channel.Channel] = {}


def lab(*words: str, stdin: str = "", timeout_s: float = 300, name: str = "") -> str:
    """Run one command of scripts/lab and return its output; raise CommandFailed.

    Args: name: of another lab than this run's.
    """
    argv = [str(LAB), *words]
    env = {**os.environ, "CRISHIM_LAB_NAME": name} if name else None
    if words[0] in ("exec", "net") and not stdin:
        at = words.index("--") + 1
        done = _channel(words[:at], name, env).run(list(words[at:]), timeout_s=timeout_s)
    else:
        done = subprocess.run(
            argv,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=env,
            check=False,
        )
    if done.returncode != 0:
        raise CommandFailed(argv, done)
    return done.stdout


def _channel(entrance: tuple[str, ...], name: str, env: dict[str, str] | None) -> channel.Channel:
    """Return the channel into a node, or the lab's network; made at its first use."""
    key = (name or os.environ.get("CRISHIM_LAB_NAME", ""), *entrance)
    if key not in _CHANNELS:
        _CHANNELS[key] = channel.Channel((str(LAB), *entrance), env)
    return _CHANNELS[key]


def close_channels() -> None:
    """End the programs of all channels; the next command starts one again."""
    while _CHANNELS:
        _CHANNELS.popitem()[1].close()


@dataclass
class Pod:
    """A pod sandbox that the test made, with the files crictl needs for containers in it."""

    node: Node
    id: str
    config: str
    name: str

    @property
    def address(self) -> str:
        """The first address that CRI reports."""
        return self.status()["status"]["network"]["ip"]

    def status(self) -> dict:
        """What `crictl inspectp` says."""
        return json.loads(self.node.crictl("inspectp", self.id))

    def create(self, image: str, *args: str, **config: object) -> str:
        """Create a container from an image name or an archive's path; returns its id."""
        settings = {
            "metadata": {"name": f"c-{uuid.uuid4().hex[:6]}"},
            "image": {"image": image},
            "log_path": f"{uuid.uuid4().hex[:8]}.log",
            "linux": {},
            **config,
        }
        if args:
            settings["args"] = list(args)
        file = self.node.write_json(settings)
        return self.node.crictl("create", "--no-pull", self.id, file, self.config).strip()

    def run(self, *args: str, image: str = IMAGE, **config: object) -> str:
        """Create and start a container of the test workload; returns its id, once it listens."""
        container = self.create(image, "/workload", *args, **config)
        self.node.crictl("start", container)
        port = int(args[args.index("-port") + 1]) if "-port" in args else PORT
        self.node.exec("python3", "-c", _LISTENS, container, str(port))
        return container

    def remove(self) -> None:
        """Stop and remove the pod with all in it."""
        self.node.crictl("stopp", self.id)
        self.node.crictl("rmp", self.id)


@dataclass
class Node:
    """One node of the lab."""

    name: str
    pods: list[Pod] = field(default_factory=list)

    def exec(self, *words: str, timeout_s: float = 120) -> str:
        """Run a command on the node and return its output."""
        return lab("exec", self.name, "--", *words, timeout_s=timeout_s)

    def sh(self, script: str, timeout_s: float = 120) -> str:
        """Run a shell script on the node."""
        return self.exec("sh", "-ec", script, timeout_s=timeout_s)

    def crictl(self, *words: str) -> str:
        """Run crictl against crishim."""
        return self.exec("crictl", *words)

    def write_json(self, value: object) -> str:
        """Put a JSON file on the node and return its path."""
        path = f"/tmp/{uuid.uuid4().hex[:8]}.json"
        self.write(path, json.dumps(value))
        return path

    def write(self, path: str, text: str) -> None:
        """Write a file of the node."""
        argv = [str(LAB), "exec", self.name, "--", "sh", "-c", 'cat > "$0"', path]
        subprocess.run(argv, input=text, text=True, check=True, timeout=30)

    def pod(self, *, annotations: dict | None = None, **config: object) -> Pod:
        """Make a pod sandbox."""
        name = f"pod-{uuid.uuid4().hex[:6]}"
        settings = {
            "metadata": {"name": name, "namespace": "default", "uid": str(uuid.uuid4())},
            "log_directory": f"/var/log/pods/{name}",
            "annotations": annotations or {},
            "linux": {},
            **config,
        }
        file = self.write_json(settings)
        pod = Pod(node=self, id=self.crictl("runp", file).strip(), config=file, name=name)
        self.pods.append(pod)
        return pod

    def clean(self) -> None:
        """Remove all pods that tests left, and what the node knows of their addresses.

        An address comes round again within a long run. The bridge plug-in of CNI does not announce
        a new pod's, and as long as the node has the old one's link address it does not answer.
        """
        left = set(self.crictl("pods", "-q").split())
        for pod in self.pods:
            if pod.id in left:
                with contextlib.suppress(CommandFailed):
                    pod.remove()
        self.pods.clear()
        self.exec("ip", "neigh", "flush", "all")


class Client:
    """The client outside the node, on connections without reconnect code."""

    COMMAND = (str(LAB), "net", "--", "python3", str(CLIENT))
    INTERFACE = "lab-u"
    LIFE_S = 240

    def __init__(
        self, address: str, *options: str, port: int = 9000, env: dict[str, str] | None = None
    ) -> None:
        argv = [*self.COMMAND, address, str(port), "--interface", self.INTERFACE, *options]
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=env
        )
        self._guard = threading.Timer(self.LIFE_S, self._process.kill)
        self._guard.daemon = True
        self._guard.start()
        assert "connected" in self._answer()

    def _answer(self) -> dict:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the client ended early"
        return json.loads(line)

    def _ask(self, word: str) -> dict:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        return self._answer()

    def mark(self) -> None:
        """Forget the longest gap so far."""
        self._ask("mark")

    def report(self) -> dict:
        """What the client has seen so far."""
        return self._ask("report")

    def wait_answers(self, more: int, *, within_s: float = 20) -> None:
        """Wait until the client has got that many more answers; fail if it does not."""
        wanted = self.report()["answered"] + more
        end = time.monotonic() + within_s
        while (seen := self.report())["answered"] < wanted:
            assert time.monotonic() < end, f"no answers any more: {seen}"
            assert not seen["errors"], seen
            time.sleep(0.02)

    def close(self) -> dict:
        """End the client and return its last report."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        last = self._answer()
        self._process.wait(timeout=10)
        self._process.stdout.close()
        self._guard.cancel()
        return last


def ask(address: str, line: str, *, port: int = 9000, run: Callable[..., str] = lab) -> str:
    """Send one line to a workload from outside and return its answer."""
    code = (
        "import socket,sys;"
        "s=socket.create_connection((sys.argv[1],int(sys.argv[2])),10);"
        "s.sendall(sys.argv[3].encode()+b'\\n');"
        "print(s.makefile().readline().strip())"
    )
    return run("net", "--", "python3", "-c", code, address, str(port), line).strip()
