"""What a test may leave behind on a node, counted before and after: nothing.

Processes, mounts, network namespaces, links, nft tables, addresses, permanent neighbours, cgroups,
files of crishim's state and the daemon's open file descriptors.
"""

from __future__ import annotations

import json
import time

SCRIPT = r"""
import json, os, subprocess
def out(*argv):
    return subprocess.run(argv, capture_output=True, text=True).stdout.splitlines()
def pids():
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                words = open(f"/proc/{entry}/cmdline").read().split("\0")
                found[entry] = " ".join(words)[:120]
            except OSError:
                pass
    return found
def cgroups():
    top = "/sys/fs/cgroup/freezer" if os.path.isdir("/sys/fs/cgroup/freezer") else "/sys/fs/cgroup"
    return sorted(path for path, _, _ in os.walk(top))
def state():
    found = []
    for path, _, files in os.walk("/var/lib/crishim"):
        if not path.startswith("/var/lib/crishim/logs"):
            found += [os.path.join(path, f) for f in files]
    return sorted(found)
processes = pids()
daemon = [p for p, line in processes.items() if "crishim" in line and " serve" in line]
print(json.dumps({
    "processes": sorted(line for p, line in processes.items()
        if line and not line.startswith(("sh ", "python3 -", "tar ", "sleep ", "/bin/sh"))),
    "mounts": sorted(line.split()[4] for line in open("/proc/self/mountinfo")),
    "namespaces": sorted(os.listdir("/run/netns")) if os.path.isdir("/run/netns") else [],
    "links": sorted(line.split(": ")[1].split("@")[0] for line in out("ip", "-o", "link")),
    "addresses": sorted(line.split()[3] for line in out("ip", "-o", "addr")
        if "fe80" not in line),
    "neighbours": sorted(out("ip", "neigh", "show", "nud", "permanent")),
    "nft": sorted(line for line in out("nft", "list", "tables") if "crishim" in line),
    "cgroups": cgroups(),
    "state": state(),
    "descriptors": {p: len(os.listdir(f"/proc/{p}/fd")) for p in daemon},
}))
"""
SPARE_DESCRIPTORS = 4  # gRPC keeps a few connections that come and go


def snapshot(node) -> dict:
    """Count everything on the node."""
    return json.loads(node.exec("python3", "-c", SCRIPT))


def compare(before: dict, after: dict) -> dict:
    """Return what is there now and was not before."""
    left = {}
    for kind, was in before.items():
        if kind == "descriptors":
            same = set(was) & set(after[kind])
            more = {p: after[kind][p] - was[p] for p in same}
            more = {p: n for p, n in more.items() if n > SPARE_DESCRIPTORS}
        else:
            more = list(after[kind])
            for item in was:
                if item in more:
                    more.remove(item)
        if more:
            left[kind] = more
    return left


def wait_clean(node, before: dict, *, within_s: float = 10) -> dict:
    """Wait until nothing is left over; return what still is when the time is up."""
    end = time.monotonic() + within_s
    while True:
        left = compare(before, snapshot(node))
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.3)
