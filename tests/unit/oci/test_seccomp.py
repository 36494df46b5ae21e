"""Which of two seccomp profiles allows more."""

import pytest

from crishim.oci import seccomp

ERRNO, ALLOW = "SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW"


def profile(default: str, *rules: tuple) -> dict:
    keys = ("names", "action", "args")
    return {
        "defaultAction": default,
        "syscalls": [dict(zip(keys, rule, strict=False)) for rule in rules],
    }


READ = profile(ERRNO, (["read"], ALLOW))
BOTH = profile(ERRNO, (["read"], ALLOW), (["mount"], ALLOW))
MASKED = profile(ERRNO, (["read"], ALLOW), (["mount"], ALLOW, [{"index": 1, "value": 2}]))
NO_MOUNT = profile(ALLOW, (["mount"], ERRNO))
NEITHER = profile(ALLOW, (["mount"], ERRNO), (["bpf"], ERRNO))


@pytest.mark.parametrize(
    ("old", "new", "more"),
    [
        (READ, READ, []),
        (READ, BOTH, []),
        (BOTH, READ, ["mount"]),
        (MASKED, READ, ["mount"]),
        (MASKED, BOTH, []),
        (MASKED, MASKED, []),
        (BOTH, MASKED, ["mount"]),
        (None, READ, ["every system call"]),
        (profile(ALLOW), READ, ["every system call"]),
        (NO_MOUNT, READ, ["every system call"]),
        (READ, NO_MOUNT, []),
        (BOTH, NO_MOUNT, ["mount"]),
        (NEITHER, NO_MOUNT, []),
        (NO_MOUNT, NEITHER, ["bpf"]),
    ],
)
def test_what_one_allows_beyond_the_other(old, new, more):
    assert seccomp.wider(old, new) == more


def test_which_profiles_confine():
    assert not any(map(seccomp.confines, (None, {}, profile(ALLOW), profile("SCMP_ACT_LOG"))))
    assert all(map(seccomp.confines, (READ, NO_MOUNT)))
