"""A machine as users have it: systemd, cgroup v2, its cgroup driver, AppArmor, seccomp, a uid.

crishim runs there as its service. Nothing of this can be shown on the lab's nodes: they share the
machine's kernel, hierarchies and privileges, and have no systemd. The marks tell what is part of
every run (`vm_quick`) and what takes long (`vm`).
"""

from __future__ import annotations

import json
import os
import re
import subprocess

import pytest

from lab.host import cgroups
from lab.settings import Options, Settings
from lab.up import prepare
from tests.e2e import leaks, nodes
from tests.e2e.conftest import LOGS
from tests.e2e.machine import TIMEOUT_S, USER_IMAGE, Client, Machine, slice_of
from tests.e2e.waiting import eventually

pytestmark = pytest.mark.timeout(900)
quick, slow = pytest.mark.vm_quick, pytest.mark.vm
SYSTEMDS_AFFAIR = ("processes", "cgroups")
ARCHIVE = "/var/lib/crishim/test.tar"
# As a careful pod would be run: a uid, the runtime's seccomp profile, nothing to gain.
CONFINED = {
    "security_context": {
        "namespace_options": {"pid": 1},
        "seccomp": {"profile_type": 0},
        "run_as_user": {"value": 1000},
        "run_as_group": {"value": 1000},
        "no_new_privs": True,
        "capabilities": {"drop_capabilities": ["ALL"]},
    }
}
_IDS = [{"host_id": 100000, "container_id": 0, "length": 65536}]
MAPPED_USERS = {
    "security_context": {
        "namespace_options": {"pid": 1, "userns_options": {"mode": 0, "uids": _IDS, "gids": _IDS}}
    }
}
_FACTS = r"""
pid=$(crictl inspect -o go-template --template '{{.info.pid}}' "$0")
cut -d: -f3 /proc/$pid/cgroup
cat /proc/$pid/attr/current
awk '/^(Uid|Seccomp|NoNewPrivs):/ { print $2 }' /proc/$pid/status
"""


@pytest.fixture(scope="module")
def machine_up(tmp_path_factory):
    """The virtual machine with the workload's images; nothing of it is left afterwards."""
    nodes.lab("vm", "up", timeout_s=1800)
    machine = Machine()
    machine.prepare(tmp_path_factory.mktemp("image"))
    machine.pod()  # what a node makes once and for all, such as CNI's bridge, is no leak of a test
    machine.clean()
    yield machine
    if os.environ.get("CRISHIM_TEST_KEEP_LAB"):
        return
    nodes.lab("vm", "down")
    settings = Settings.from_environment()
    assert not settings.vm_dir.exists()
    assert not any((each.point / settings.vm_cgroup).exists() for each in cgroups.hierarchies())
    with pytest.raises(nodes.CommandFailed) as gone:
        nodes.lab("vm", "exec", "--", "true")
    assert "scripts/lab vm up" in gone.value.stderr


@pytest.fixture
def machine(machine_up, request):
    """The machine, without a test's pods and archive after the test, and otherwise as it was."""
    counted = leaks.snapshot(machine_up)
    before = {kind: counted[kind] for kind in counted if kind not in SYSTEMDS_AFFAIR}
    yield machine_up
    if getattr(request.node, "failed", False):
        folder = LOGS / re.sub(r"[^\w.-]+", "_", request.node.name)
        folder.mkdir(parents=True, exist_ok=True)
        words = ("journalctl", "--no-pager", "-u", "crishim", "-u", "containerd")
        (folder / "journal.log").write_text(machine_up.exec(*words))
    machine_up.wait_for("crishim")
    machine_up.clean()
    machine_up.exec("rm", "-f", ARCHIVE)
    left = leaks.wait_clean(machine_up, before, within_s=60)
    assert getattr(request.node, "failed", False) or not left, f"left behind: {left}"


def confinement(machine: Machine, container: str) -> list[str]:
    """Cgroup without its last part, AppArmor profile, uid, no-new-privileges, seccomp mode."""
    cgroup, *rest = machine.exec("sh", "-ec", _FACTS, container).splitlines()
    folder, _, scope = cgroup.rpartition("/")
    assert scope == f"cri-containerd-{container}.scope"
    return [folder, *rest]


@quick
def test_the_service_says_when_it_is_ready(machine):
    """systemd knows that crishim serves, and what it is doing."""
    kind, state, watchdog, text = machine.show(
        "crishim", "Type", "ActiveState", "WatchdogUSec", "StatusText"
    )
    assert (kind, state, watchdog) == ("notify", "active", "30s")
    assert text.startswith("serving for containerd")
    assert "RuntimeName:  containerd" in machine.crictl("version")


@slow
def test_a_daemon_that_hangs_is_started_again(machine):
    """The watchdog is fed while the daemon turns, and ends it when it does not."""
    before = machine.show("crishim", "WatchdogTimestampMonotonic", "NRestarts", "MainPID")

    def shown(name: str) -> list[str]:
        return machine.show("crishim", name)

    fed = "WatchdogTimestampMonotonic"
    eventually(lambda: shown(fed) != before[:1], within_s=120, what="the watchdog is not fed")
    assert shown("NRestarts") == before[1:2]
    machine.exec("kill", "-STOP", before[2])
    eventually(lambda: shown("NRestarts") != before[1:2], within_s=TIMEOUT_S, what="a restart")
    machine.wait_for("crishim")
    assert machine.show("crishim", "MainPID") != before[2:]
    assert "RuntimeName:  containerd" in machine.crictl("version")


@slow
@pytest.mark.parametrize("words", ["restart", "stop", "kill --kill-whom=main --signal=KILL"])
def test_the_service_ends_in_the_middle_of_a_dump(machine, words):
    """SIGTERM or a crash during a dump: all of it or nothing is there, the container goes on."""
    pod = machine.pod()
    container = pod.run("-memory-mb", "200", linux={"security_context": {}})
    address = pod.address
    machine.wait_listening(address)
    digest = machine.ask(address, "sum")
    argv = [str(nodes.LAB), "vm", "exec", "--", "crishim", "checkpoint", container]
    with subprocess.Popen([*argv, "--output", ARCHIVE], stdout=subprocess.PIPE, text=True) as dump:
        machine.sh("until pidof criu >/dev/null; do sleep 0.2; done")
        machine.exec("systemctl", *words.split(), "crishim")
        dump.communicate(timeout=TIMEOUT_S)
    machine.exec("systemctl", "start", "crishim")
    machine.wait_for("crishim")
    there = machine.sh(f"ls {ARCHIVE} 2>/dev/null || :").strip()
    assert (dump.returncode == 0) == (there == ARCHIVE)
    if there:
        assert container[:12] in machine.exec("checkpointctl", "show", ARCHIVE)
    assert machine.sh("ls -A /var/lib/crishim/dumps 2>/dev/null || :") == ""
    assert machine.ask(address, "sum") == digest
    assert '"state": "CONTAINER_RUNNING"' in machine.crictl("inspect", container)


@quick
def test_a_confined_container_goes_on_in_another_pod(machine):
    """uid 1000, seccomp, AppArmor, a pod's slice: same after the restore, connection kept.

    It is dumped twice, and the daemon is started again while its connections wait.
    """
    pod = machine.pod()
    container = pod.run("-memory-mb", "20", image=USER_IMAGE, linux=CONFINED)
    address = pod.address
    machine.wait_listening(address)
    cgroup, *confined = confinement(machine, container)
    assert cgroup.startswith("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod")
    assert confined == ["cri-containerd.apparmor.d (enforce)", "1000", "1", "2"]
    client = Client(address, "--period-ms", "50")
    client.wait_answers(10, within_s=TIMEOUT_S)
    digest = machine.ask(address, "sum")
    machine.crictl("checkpoint", "--export", ARCHIVE, container)
    client.wait_answers(10, within_s=TIMEOUT_S)
    machine.exec("rm", ARCHIVE)
    machine.exec("crishim", "checkpoint", container, "--stop", "--output", ARCHIVE)
    machine.exec("systemctl", "restart", "crishim")
    machine.wait_for("crishim")
    pod.remove()
    target = machine.pod()
    restored = target.create(ARCHIVE, linux=CONFINED)
    machine.crictl("start", restored)
    client.wait_answers(10, within_s=TIMEOUT_S)
    report = client.close()
    assert (report["errors"], report["wire"]) == ([], [])
    assert report["counted"] == report["answered"]
    assert target.address == address
    assert machine.ask(address, "sum") == digest
    moved, *same = confinement(machine, restored)
    assert same == confined
    assert (
        moved.endswith(slice_of(target.status()["status"]["metadata"]["uid"])) and moved != cgroup
    )


@slow
def test_an_unconfined_container_does_not_come_back_in_a_confined_one(machine):
    """AppArmor and seccomp of the new pod count: who has neither is refused by name."""
    privileged = {"security_context": {"privileged": True}}
    container = machine.pod(linux=privileged).run(image=USER_IMAGE, linux=privileged)
    machine.crictl("checkpoint", "--export", ARCHIVE, container)
    with pytest.raises(nodes.CommandFailed) as refused:
        machine.pod().create(ARCHIVE, linux=CONFINED)
    error = refused.value.stderr
    assert "security label unconfined, the container cri-containerd.apparmor.d" in error
    assert "no seccomp profile" in error
    assert "SYS_ADMIN" in error


@slow
def test_mapped_users_are_refused_clearly(machine):
    """A pod with a user namespace of its own: one sentence, and the container runs on."""
    pod = machine.pod(linux=MAPPED_USERS)
    container = pod.run(linux=MAPPED_USERS)
    with pytest.raises(nodes.CommandFailed) as refused:
        machine.crictl("checkpoint", "--export", ARCHIVE, container)
    assert "user namespace" in refused.value.stderr
    assert "hostUsers: false" in refused.value.stderr
    machine.wait_listening(pod.address)
    assert machine.ask(pod.address, "count 1") == "count 1 1"


@slow
@pytest.mark.timeout(2400)
def test_the_lab_runs_inside_the_machine(machine, tmp_path):
    """A host with cgroup v2 and systemd brings nodes up, too, and the main job runs on them."""
    inside = Settings.from_environment()
    artifacts = {
        inside.cache / layer.relative_to(inside.cache).parts[0]
        for layer in prepare(inside, Options()).layers
    }
    nodes.lab("vm", "push", *map(str, sorted(artifacts)), "/var/cache/crishim", timeout_s=1200)
    nodes.lab("vm", "push", str(nodes.ROOT / "tests"), "/src")
    nodes.lab("go", str(nodes.ROOT / "tests" / "workload"), str(tmp_path / "workload"))
    nodes.lab("vm", "push", str(tmp_path / "workload"), "/root/image")
    machine.exec("systemctl", "stop", "crishim", "containerd")
    try:
        program = "/src/tests/e2e/lab_in_vm.py"
        printed = machine.exec("python3", "-B", program, timeout_s=1800)
    finally:
        machine.exec("systemctl", "start", "containerd", "crishim")
    report = json.loads(printed.splitlines()[-1])
    assert report["cgroup"] == "cgroup2fs"
    assert (report["errors"], report["wire"], report["left"]) == ([], [], [])
    assert report["counted"] == report["answered"]
    assert report["same address"]
