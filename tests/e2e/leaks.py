"""What a test may leave behind on a node, counted before and after: nothing.

Processes (shells and the runtime wrapper's too), mounts in all namespaces, the options of the
node's cgroup mounts, network namespaces and threads in them, links, nft tables of the node and of
pods, addresses, permanent neighbours, cgroups, files of crishim's state and the daemon's open
files. `inventory.py` counts on the node; logs of failures may grow, but not without end.
"""

from __future__ import annotations

import collections
import json
import time
from pathlib import Path

from tests.e2e import inventory

SCRIPT = Path(inventory.__file__).read_text(encoding="utf-8")
SPARE_DESCRIPTORS = 4  # gRPC keeps a few connections that come and go
LOGS_MAX = 64
_COME_AND_GO = ("socket:", "pipe:", "anon_inode:")


def snapshot(node) -> dict:
    """Count everything on the node."""
    return json.loads(node.exec("python3", "-c", SCRIPT))


def compare(before: dict, after: dict) -> dict:
    """Return what is there now and was not before."""
    left = {}
    for kind, was in before.items():
        if kind == "descriptors":
            more = _descriptors(was, after[kind])
        elif kind == "logs":
            more = after[kind] if len(after[kind]) > LOGS_MAX else []
        else:
            more = _more(was, after[kind])
        if more:
            left[kind] = more
    return left


def _more(was: list[str], now: list[str]) -> list[str]:
    return sorted((collections.Counter(now) - collections.Counter(was)).elements())


def _descriptors(was: dict[str, list[str]], now: dict[str, list[str]]) -> list[str]:
    """Return what the same daemon has open beyond what it had; a few sockets are gRPC's."""
    left = []
    for pid in set(was) & set(now):
        more = _more(was[pid], now[pid])
        passing = [kind for kind in more if kind.startswith(_COME_AND_GO)]
        left += [kind for kind in more if not kind.startswith(_COME_AND_GO)]
        left += passing if len(passing) > SPARE_DESCRIPTORS else []
    return left


def wait_clean(node, before: dict, *, within_s: float = 30) -> dict:
    """Wait until nothing is left over of the kinds counted before; return what still is."""
    end = time.monotonic() + within_s
    while True:
        left = compare(before, snapshot(node))
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.3)
