"""The runtime wrapper, run by the shell as containerd's shim runs it, in front of a runc that only
writes down how it was called."""

import json
import subprocess
from pathlib import Path

import pytest

from crishim.restore import plans
from tests.unit.samples import plan

RUNC = """#!/bin/sh
{ for word; do printf '%s\\0' "$word"; done; printf 'CRIU_CONFIG_FILE=%s\\0' "${CRIU_CONFIG_FILE-}"
} > "$0.called"
exit "$(cat "$0.status")"
"""
GLOBAL = ["--root", "/run/containerd/runc/k8s.io", "--log", "LOG", "--log-format", "json"]
CREATE = ["create", "--bundle", "/b c", "--no-new-keyring", "--pid-file", "/b c/init.pid", "id1"]


class Runc:
    """The fake runc and a container's directory with the wrapper in it."""

    def __init__(self, top: Path) -> None:
        self.binary = top / "real runc"
        self.binary.write_text(RUNC)
        self.binary.chmod(0o755)
        self.directory = top / "restore"
        self.directory.mkdir()
        self.log = top / "log.json"
        self.ends_with(0)
        self.wrapper = plans.write(
            self.directory,
            plan=plan(),
            runc=str(self.binary),
            options=["--image-path", "/images *", "--tcp-established"],
            criu_config="",
        )

    def ends_with(self, status: int) -> None:
        Path(f"{self.binary}.status").write_text(str(status))

    def shim(self, *words: str) -> subprocess.CompletedProcess[str]:
        Path(f"{self.binary}.called").unlink(missing_ok=True)
        argv = [str(self.log) if word == "LOG" else word for word in words]
        return subprocess.run(
            ["/bin/sh", str(self.wrapper), *argv], capture_output=True, text=True, timeout=20
        )

    @property
    def called(self) -> list[str] | None:
        """What runc was called with, its CRIU_CONFIG_FILE last; None if it was not called."""
        try:
            return Path(f"{self.binary}.called").read_text().split("\0")[:-1]
        except FileNotFoundError:
            return None


@pytest.fixture
def runc(tmp_path):
    return Runc(tmp_path)


def test_create_restores_with_the_arguments_of_create(runc):
    assert runc.shim(*GLOBAL, *CREATE).returncode == 0
    log = str(runc.log)
    assert runc.called == [
        *("--root", "/run/containerd/runc/k8s.io", "--log", log, "--log-format", "json"),
        *("restore", "--detach", "--no-subreaper"),
        *("--image-path", "/images *", "--tcp-established"),
        *("--bundle", "/b c", "--pid-file", "/b c/init.pid", "id1"),
        f"CRIU_CONFIG_FILE={runc.directory}/criu.conf",
    ]


def test_options_before_the_verb_stay(runc):
    runc.shim("--systemd-cgroup", "--debug", "--criu", "create", *CREATE)
    assert runc.called[:5] == ["--systemd-cgroup", "--debug", "--criu", "create", "restore"]


def test_start_after_a_restore_has_nothing_to_do_once(runc):
    runc.shim(*GLOBAL, *CREATE)
    assert runc.shim(*GLOBAL, "start", "id1").returncode == 0
    assert runc.called is None
    runc.shim("start", "id1")
    assert runc.called == ["start", "id1", "CRIU_CONFIG_FILE="]


def test_a_failed_restore_fails_the_create_and_is_tried_again(runc):
    runc.ends_with(7)
    assert runc.shim(*GLOBAL, *CREATE).returncode == 1
    runc.shim("start", "id1")
    assert runc.called == ["start", "id1", "CRIU_CONFIG_FILE="]
    runc.ends_with(0)
    assert runc.shim(*GLOBAL, *CREATE).returncode == 0
    assert "restore" in runc.called


def test_no_disk_makes_a_failure_of_a_restore_that_was_over(runc):
    """No file of that name can be written, or taken away, from runc's end on."""
    mark = runc.directory / "restored"
    runc.binary.write_text(f"#!/bin/sh\nrm -f '{mark}'; mkdir '{mark}'\n")
    assert runc.shim(*GLOBAL, *CREATE).returncode == 0
    assert runc.shim(*GLOBAL, "start", "id1").returncode == 0


def test_nothing_is_restored_where_its_success_could_not_be_written(runc):
    (runc.directory / "restored").mkdir()
    ended = runc.shim(*GLOBAL, *CREATE)
    assert ended.returncode == 1 and runc.called is None
    assert "nothing can be written" in json.loads(runc.log.read_text())["msg"]


def test_a_used_checkpoint_is_no_cold_start_but_an_error_as_runc_writes_it(runc):
    plans.finish(runc.directory)
    ended = runc.shim(*GLOBAL, *CREATE)
    assert ended.returncode == 1
    assert runc.called is None
    entry = json.loads(runc.log.read_text())
    assert entry["level"] == "error"
    assert "restored before" in entry["msg"]
    assert entry["msg"] in ended.stderr
    assert entry["time"].endswith("Z")


def test_the_error_needs_no_log(runc):
    plans.finish(runc.directory)
    ended = runc.shim(*CREATE)
    assert ended.returncode == 1
    assert "restored before" in ended.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["kill", "--all", "id1", "9"],
        ["delete", "--force", "create"],
        ["state", "id1"],
        ["exec", "--process", "/tmp/a b.json", "id1"],
        ["update", "--resources", "-", "id1"],
        ["--version"],
        [],
    ],
)
def test_all_else_is_runcs_own(runc, words):
    runc.ends_with(3)
    assert runc.shim(*GLOBAL, *words).returncode == 3
    told = [str(runc.log) if word == "LOG" else word for word in GLOBAL]
    assert runc.called == [*told, *words, "CRIU_CONFIG_FILE="]
