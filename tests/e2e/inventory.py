"""What there is on a node that a test may not leave behind: a program for the node's own Python.

Prints one JSON object; `leaks.py` compares two of them. Standard library only, and no import of
ours: it is sent to the node as text. What commands of the test itself show (they come in from
outside the node's process 1) is left out.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

STATE = Path("/var/lib/crishim")
LOGS = STATE / "logs"
MARKS = STATE / "restored"
_AGENT = "/lib/lab/agent.py"  # the virtual machine's channel starts a test's commands
_ID = re.compile(r"[0-9a-f]{12,64}|\d+")


def output(*argv: str) -> list[str]:
    """Return the lines that a program prints."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


class Process:
    """One process of the node, as /proc shows it; OSError once it is gone."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.path = Path("/proc", str(pid))
        words = self.path.joinpath("cmdline").read_bytes().decode(errors="replace").split("\0")
        self.line = " ".join(words).strip()
        name, _, rest = self.path.joinpath("stat").read_text().partition("(")[2].rpartition(")")
        self.name, fields = name, rest.split()
        self.state, self.parent = fields[0], int(fields[1])

    @property
    def is_daemon(self) -> bool:
        """Whether this is crishim's daemon."""
        return self.pid != 1 and "crishim" in self.line and self.line.endswith(" serve")

    def namespace(self, kind: str) -> int:
        """Return the number of one of its namespaces."""
        return os.stat(self.path / "ns" / kind).st_ino


def processes() -> dict[int, Process]:
    """Return all processes but those of a test's own commands."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                found[int(entry)] = Process(int(entry))
            except OSError:
                continue
    return {pid: process for pid, process in found.items() if _is_the_nodes(process, found)}


def _is_the_nodes(process: Process, known: dict[int, Process]) -> bool:
    """Return whether process 1 started it, or whoever it descends from."""
    while process.pid != 1:
        if _AGENT in process.line or process.parent not in known:
            return False
        process = known[process.parent]
    return True


def command_lines(found: dict[int, Process]) -> list[str]:
    """Return what runs, shells and the runtime wrapper's among it, and whom nobody waited for."""
    lines = []
    for process in found.values():
        if process.state == "Z":
            if process.parent != 1:
                lines.append(f"[{process.name}] that nobody waits for")
        elif process.line:
            lines.append(process.line[:120])
    return sorted(lines)


def foreign_mounts(found: dict[int, Process]) -> list[str]:
    """Return the mounts of all mount namespaces but this one."""
    seen, lines = {os.stat("/proc/self/ns/mnt").st_ino}, []
    for process in found.values():
        try:
            number = process.namespace("mnt")
            if number not in seen:
                seen.add(number)
                text = process.path.joinpath("mountinfo").read_text()
                lines += [f"{process.name}: {line.split()[4]}" for line in text.splitlines()]
        except OSError:
            continue
    return sorted(lines)


def foreign_networks(found: dict[int, Process]) -> list[str]:
    """Return which threads of the daemon live in the network namespace of a pod."""
    own, lines = os.stat("/proc/self/ns/net").st_ino, []
    for process in found.values():
        if not process.is_daemon:
            continue
        for task in process.path.joinpath("task").iterdir():
            try:
                if os.stat(task / "ns" / "net").st_ino != own:
                    lines.append(f"thread {(task / 'comm').read_text().strip()} in a pod's network")
            except OSError:
                continue
    return sorted(lines)


def cgroup_mounts() -> list[str]:
    """Return place and options of the node's cgroup mounts: CRIU may not change them."""
    lines = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup"):
            fields = before.split()
            lines.append(f"{fields[4]} {fields[5]} {after}")
    return sorted(lines)


def cgroups() -> list[str]:
    """Return every cgroup of the hierarchy in which tasks are frozen."""
    freezer = Path("/sys/fs/cgroup/freezer")
    return sorted(path for path, _, _ in os.walk(freezer if freezer.is_dir() else "/sys/fs/cgroup"))


def state_files() -> list[str]:
    """Return the files of crishim's state; the logs of failures are counted apart.

    Marks of restored pods stay for a day after these are gone.
    """
    found = []
    for path, _, files in os.walk(STATE):
        if not Path(path).is_relative_to(LOGS) and not Path(path).is_relative_to(MARKS):
            found += [os.path.join(path, name) for name in files]
    return sorted(found)


def descriptors(found: dict[int, Process]) -> dict[str, list[str]]:
    """Return what the daemon has open, without numbers, by its process id."""
    opened = {}
    for process in found.values():
        if process.is_daemon:
            kinds = []
            for entry in process.path.joinpath("fd").iterdir():
                try:
                    kinds.append(_ID.sub("N", os.readlink(entry)))
                except OSError:
                    continue
            opened[str(process.pid)] = sorted(kinds)
    return opened


def holds() -> list[str]:
    """Return our nft tables in the namespaces of pods for which nobody answers.

    A stopped container's pod has one as long as its connections wait; a record says so.
    """
    names = os.listdir("/run/netns") if os.path.isdir("/run/netns") else []
    owned = {json.loads(path.read_text()).get("netns") for path in STATE.glob("held/*.json")}
    owned = {os.path.basename(path) for path in owned if path}
    lines = []
    for name in sorted(set(names) - owned):
        tables = output("nsenter", f"--net=/run/netns/{name}", "nft", "list", "tables")
        lines += [f"{name}: {line}" for line in tables if "crishim" in line]
    return lines


def take() -> dict[str, object]:
    """Take stock of the node."""
    found = processes()
    return {
        "processes": command_lines(found),
        "mounts": sorted(
            s.split()[4] for s in Path("/proc/self/mountinfo").read_text().split("\n")[:-1]
        ),
        "mounts elsewhere": foreign_mounts(found),
        "threads": foreign_networks(found),
        "cgroup mounts": cgroup_mounts(),
        "namespaces": sorted(os.listdir("/run/netns")) if os.path.isdir("/run/netns") else [],
        "links": sorted(s.split(": ")[1].split("@")[0] for s in output("ip", "-o", "link")),
        "addresses": sorted(s.split()[3] for s in output("ip", "-o", "addr") if "fe80" not in s),
        "neighbours": sorted(output("ip", "neigh", "show", "nud", "permanent")),
        "nft": sorted(line for line in output("nft", "list", "tables") if "crishim" in line),
        "holds": holds(),
        "cgroups": cgroups(),
        "state": state_files(),
        "logs": sorted(os.listdir(LOGS)) if LOGS.is_dir() else [],
        "descriptors": descriptors(found),
    }


if __name__ == "__main__":
    print(json.dumps(take()))
