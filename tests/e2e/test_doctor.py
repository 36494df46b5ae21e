"""`crishim doctor` on a real node: each case breaks one thing, looks, and puts it back."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from tests.e2e import nodes

STRAIGHT = "unix:///run/containerd/containerd.sock"


@dataclass(frozen=True)
class Case:
    """One thing broken: scripts that break and mend it, and the finding it must lead to.

    Without scripts it is another finding about what the case before it broke.
    """

    id: str
    level: str
    breaks: str = ""
    mends: str = ""
    says: str = ""


def moved(path: str) -> dict[str, str]:
    """Scripts that move a file away and back."""
    return {"breaks": f"mv {path} {path}.away", "mends": f"mv {path}.away {path}"}


def replaced(name: str, says: str) -> dict[str, str]:
    """Scripts that put a program first on every PATH that says one line, and take it away."""
    path = f"/usr/local/sbin/{name}"
    return {
        "breaks": f"printf '#!/bin/sh\\necho {says}\\n' > {path} && chmod 755 {path}",
        "mends": f"rm {path}",
    }


def written(path: str, text: str) -> dict[str, str]:
    """Scripts that make a file in a directory of its own, and remove both."""
    return {
        "breaks": f"mkdir -p $(dirname {path}) && echo '{text}' > {path}",
        "mends": f"rm {path}; rmdir --ignore-fail-on-non-empty $(dirname {path})",
    }


RESTORED = "/var/lib/crishim/restores/" + "d0c" * 10
STORE = "/var/lib/crishim/checkpoints"
# Things that can be broken at once, in one round.
MANY = (
    Case("criu.version", "ERROR", **moved("/usr/sbin/criu"), says="no criu is on the PATH"),
    Case("criu.check", "ERROR", says="cannot be run"),
    Case("criu.path", "ERROR", says="containerd finds no criu"),
    Case("criu.runc_conf", "ERROR", **written("/etc/criu/runc.conf", "tcp-close")),
    Case("criu.default_conf", "WARNING", **written("/etc/criu/default.conf", "tcp-close")),
    Case("criu.home_conf", "WARNING", **written("/root/.criu/default.conf", "tcp-close")),
    Case(
        "criu.cache",
        "WARNING",
        breaks="touch -d '1 hour ago' /run/criu.kdat.tmp",
        mends="rm -f /run/criu.kdat.tmp",
        says="left by a CRIU that was killed",
    ),
    Case(
        "criu.annotation",
        "ERROR",
        breaks="ctr -n k8s.io c create --annotation org.criu.config=/mine docker.io/library/"
        "busybox:latest marked true",
        mends="ctr -n k8s.io c rm marked",
        says="marked (/mine)",
    ),
    Case("runc.runc", "ERROR", **replaced("runc", "crun version 1.21"), says="is not runc"),
    Case("kernel.erofs", "WARNING", **moved("/usr/bin/mkfs.erofs"), says="unpacked"),
    Case(
        "socket.own",
        "ERROR",
        breaks="chmod 666 /run/crishim/crishim.sock",
        mends="chmod 600 /run/crishim/crishim.sock",
        says="0666",
    ),
    Case(
        "socket.crictl",
        "WARNING",
        breaks="cp /etc/crictl.yaml /tmp/c && sed -i s,crishim/crishim,x/x, /etc/crictl.yaml",
        mends="mv /tmp/c /etc/crictl.yaml",
        says="goes past crishim",
    ),
    Case(
        "store.safety",
        "ERROR",
        breaks="chmod 777 /var/lib/crishim",
        mends="chmod 755 /var/lib/crishim",
        says="0777",
    ),
    Case(
        "store.space",
        "ERROR",
        breaks=f"mkdir -p {STORE} && mount -t tmpfs -o size=1M,mode=700 x {STORE}",
        mends=f"umount {STORE}",
        says="no room",
    ),
    Case(
        "wrapper.directories",
        "ERROR",
        breaks=f"mkdir -p {RESTORED} && echo runc > {RESTORED}/runc",
        mends=f"rm -r {RESTORED}",
        says="crishim-runc is missing",
    ),
)
OTHERS = (
    Case("criu.version", "WARNING", **replaced("criu", "Version: 4.1.1"), says="4.1.1"),
    Case("criu.runc_conf", "WARNING", **written("/etc/criu/runc.conf", "verbosity 4")),
    Case("runc.runc", "WARNING", **replaced("runc", '"runc version 1.0.3 |ignore"'), says="1.0.3"),
    Case(
        "wrapper.directories",
        "ERROR",
        breaks="mount --bind /var/lib/crishim /var/lib/crishim && "
        "mount -o remount,bind,noexec /var/lib/crishim",
        mends="umount /var/lib/crishim",
        says="noexec",
    ),
)
NO_CONTAINERD = (
    Case(
        "containerd.answers",
        "ERROR",
        breaks="service containerd stop",
        mends="service containerd start; until crictl pods -q > /dev/null 2>&1; do sleep 0.1; done",
        says="/run/containerd/containerd.sock",
    ),
    Case("criu.version", "ERROR", **replaced("criu", "Version: 3.15"), says="older than 3.16"),
)
# What the daemon has loaded, or is, cannot be taken from it: here the command looks by itself.
NO_DAEMON = (
    Case(
        "daemon.answers",
        "ERROR",
        breaks="service crishim stop",
        mends="service crishim start",
        says="looked by itself",
    ),
    Case("socket.own", "ERROR", says="no socket"),
    Case(
        "kernel.netdev_hooks",
        "ERROR",
        **moved("/usr/lib/$(uname -m)-linux-gnu/libnftables.so.1"),
        says="libnftables is not installed",
    ),
)
ROUNDS = {"many": MANY, "others": OTHERS, "no containerd": NO_CONTAINERD, "no daemon": NO_DAEMON}
WITHOUT_NET_ADMIN = ("crishim.capabilities", "kernel.tcp_repair", "kernel.netdev_hooks")


def doctor(
    node: nodes.Node, *cases: Case, command: str = "crishim doctor --json"
) -> tuple[int, dict[str, dict]]:
    """Break things, run the doctor, mend them, all in one script.

    Returns: its exit status, and its findings by their ids.
    """
    mends = "; ".join(case.mends for case in reversed(cases) if case.mends)
    breaks = "\n".join(f"{{ {case.breaks}; }} >&2" for case in cases if case.breaks)
    script = f"mend() {{ set +e; {mends or ':'}; }}\ntrap 'mend >&2' EXIT\n{breaks}\n"
    script += f"status=0; {command} || status=$?; echo $status"
    *text, status = node.sh(script).splitlines()
    return int(status), {finding["id"]: finding for finding in json.loads("\n".join(text))}


def test_a_node_in_order_has_no_errors(node: nodes.Node) -> None:
    status, findings = doctor(node)
    assert status == 0
    assert not [f for f in findings.values() if f["level"] == "LEVEL_ERROR"]
    assert findings["network.cni"]["level"] == "LEVEL_OK"
    assert all(f["summary"] and bool(f["cure"]) != (f["level"] == "LEVEL_OK")
               for f in findings.values())  # fmt: skip
    text = node.exec("crishim", "doctor")
    assert text.splitlines()[-1].startswith("0 errors, ")
    assert "LEVEL" not in text and " criu.version: " not in text
    assert " criu.version: CRIU " in node.exec("crishim", "doctor", "--verbose")


@pytest.mark.parametrize("cases", ROUNDS.values(), ids=ROUNDS)
def test_finds_what_is_broken(node: nodes.Node, cases: tuple[Case, ...]) -> None:
    status, findings = doctor(node, *cases)
    assert status == 1
    for case in cases:
        finding = findings[case.id]
        assert finding["level"] == f"LEVEL_{case.level}", finding
        assert case.says in finding["summary"]
        assert finding["cure"]


def test_lacking_capabilities_are_named(node: nodes.Node) -> None:
    lacking = "capsh --drop=cap_net_admin -- -c 'crishim doctor --json'"
    status, findings = doctor(node, NO_DAEMON[0], command=lacking)
    assert status == 1
    assert {findings[name]["level"] for name in WITHOUT_NET_ADMIN} == {"LEVEL_ERROR"}
    assert "CAP_NET_ADMIN" in findings["crishim.capabilities"]["summary"]


def test_pods_older_than_crishim_are_named(node: nodes.Node) -> None:
    config = {"metadata": {"name": "older", "namespace": "default", "uid": "u-1"}, "linux": {}}
    pod = node.crictl("-r", STRAIGHT, "runp", node.write_json(config)).strip()
    try:
        _, findings = doctor(node)
    finally:
        node.crictl("stopp", pod)
        node.crictl("rmp", pod)
    assert findings["pods.mptcp"]["level"] == "LEVEL_WARNING"
    assert "default/older" in findings["pods.mptcp"]["summary"]


def test_a_kubelet_that_goes_past_crishim_is_found(node: nodes.Node) -> None:
    endpoint = f"--container-runtime-endpoint={STRAIGHT}"
    # Any program by that name.
    start = "ln -sf $(readlink -f /usr/bin/python3) /tmp/kubelet; /tmp/kubelet -c "
    start += f"'import time; time.sleep(600)' {endpoint} >/dev/null 2>&1 & echo $!"
    pid = node.sh(start).strip()
    try:
        _, findings = doctor(node)
    finally:
        node.exec("kill", pid)
    assert findings["socket.kubelet"]["level"] == "LEVEL_WARNING"
    assert STRAIGHT in findings["socket.kubelet"]["summary"]
