"""Does one seccomp profile allow more than another? Pure, on the OCI form of both.

The filters in CRIU's images are programs, which nobody can compare; what they were made from stands
in the specification that the container was started with. A rule for some arguments of a system call
is taken as a whole: it is in the other profile too, or it is more.

Source: the OCI runtime specification, config-linux.md, "Seccomp".
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_ALLOWING = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG")
_ALL = "every system call"
_ANYHOW = ""
"""In place of a rule's arguments: whatever they are."""


def confines(profile: Mapping[str, Any] | None) -> bool:
    """Return whether a profile forbids anything."""
    if not profile:
        return False
    actions = [profile.get("defaultAction"), *(r.get("action") for r in _rules(profile))]
    return any(action not in _ALLOWING for action in actions)


def wider(profile: Mapping[str, Any] | None, limit: Mapping[str, Any]) -> list[str]:
    """Name the system calls that a profile allows and another does not, sorted.

    Args: limit: one that confines. profile: None, or one that does not, is wider as a whole.
    """
    if not confines(profile):
        return [_ALL]
    assert profile is not None
    if _open(profile) and not _open(limit):
        return [_ALL]
    found = _of(profile, allowed=True)
    if _open(limit):
        forbidden = _of(limit, allowed=False)
        if _open(profile):
            ours = _of(profile, allowed=False)
            return sorted(name for name in forbidden if not _covers(ours, name, forbidden[name]))
        return sorted(forbidden.keys() & found.keys())
    granted = _of(limit, allowed=True)
    return sorted(name for name in found if not _covers(granted, name, found[name]))


def _covers(table: Mapping[str, set[str]], name: str, rules: set[str]) -> bool:
    there = table.get(name, set())
    return _ANYHOW in there or rules <= there


def _open(profile: Mapping[str, Any]) -> bool:
    return profile.get("defaultAction") in _ALLOWING


def _of(profile: Mapping[str, Any], *, allowed: bool) -> dict[str, set[str]]:
    """Return the rules that allow, or those that forbid: what they say of arguments, by name."""
    found: dict[str, set[str]] = {}
    for rule in _rules(profile):
        if (rule.get("action") in _ALLOWING) is allowed:
            arguments = rule.get("args")
            text = json.dumps(arguments, sort_keys=True) if arguments else _ANYHOW
            for name in rule.get("names") or ():
                found.setdefault(str(name), set()).add(text)
    return found


def _rules(profile: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(profile.get("syscalls") or ())
