"""Drive runc: frozen options in, argument lists, results out.

runc in turn drives CRIU; what it has no flag for reaches CRIU through a configuration file named by
CRIU_CONFIG_FILE (`tools/criu.py`). A running dump is never killed: a killed CRIU leaves its
parasite in the process.

Source: `runc --help` of 1.1.15 and 1.3.6; main.go and checkpoint.go of runc 1.3.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crishim.errors import Corrupt, NotFound, Precondition, ToolFailed
from crishim.kernel import mounts, process
from crishim.tools import logs
from crishim.tools.known import Known

if TYPE_CHECKING:
    from crishim.ids import ContainerId

_TIMEOUT_S = 30.0
# NVIDIA's runtime says its own version first, then that of the runc that it calls for everything.
_VERSION = re.compile(r"^runc version (\S+)", re.MULTILINE)
_CGROUPS = "/sys/fs/cgroup"


@dataclass(frozen=True, slots=True, kw_only=True)
class Runc:
    """One runc as containerd's shim calls it: binary, state directory, cgroup driver."""

    binary: str
    root: Path
    systemd_cgroup: bool = False

    def argv(self, *words: str) -> list[str]:
        """Return the command line of one verb, with the global options before it."""
        systemd = ["--systemd-cgroup"] if self.systemd_cgroup else []
        return [self.binary, "--root", str(self.root), *systemd, *words]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuncFacts:
    """What one runc binary is and can do.

    Attributes:
        link_remap: `runc checkpoint` has --link-remap (1.3 and newer).
        cgroups_mode: the mode in which restored tasks land in the new container's cgroup: "ignore"
            where runc knows it (1.2 and newer), else "soft", which cgroup v2 must not be given.
    """

    version: str
    link_remap: bool
    cgroups_mode: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointOptions:
    """Options of `runc checkpoint`.

    Attributes:
        images: existing directory that CRIU writes its images into.
        work: existing directory for dump.log and stats-dump.
        criu_config: file with CRIU options that runc has no flag for.
        kept_logs: where the caller keeps the logs of a failure; named in the error.
        leave_running: do not end the processes.
        cgroups_mode: see RuncFacts.
        link_remap: allow hard links to unlinked open files; only where runc has the flag.
        pages: further words that say where the memory pages go; none for files among the images.
    """

    images: Path
    work: Path
    criu_config: Path
    kept_logs: Path
    leave_running: bool
    cgroups_mode: str
    tcp_established: bool = True
    file_locks: bool = True
    external_unix: bool = True
    link_remap: bool = False
    pages: tuple[str, ...] = ()

    def argv(self, container: ContainerId) -> list[str]:
        """Return verb, options and container id."""
        flags = {
            "--leave-running": self.leave_running,
            "--tcp-established": self.tcp_established,
            "--file-locks": self.file_locks,
            "--ext-unix-sk": self.external_unix,
            "--link-remap": self.link_remap,
        }
        return [
            "checkpoint",
            "--image-path",
            str(self.images),
            "--work-path",
            str(self.work),
            "--manage-cgroups-mode",
            self.cgroups_mode,
            *(flag for flag, wanted in flags.items() if wanted),
            *self.pages,
            container,
        ]


_facts: Known[RuncFacts] = Known()


async def facts(binary: str) -> RuncFacts:
    """Return what a runc is and what its checkpoint command knows.

    Raises: Precondition: the binary is missing, is not runc, or too old for this node.
    """
    return await _facts.get(binary, lambda: _ask(binary))


async def _ask(binary: str) -> RuncFacts:
    done = await process.run([binary, "--version"], timeout_s=_TIMEOUT_S)
    text = done.stdout.decode(errors="replace")
    match = _VERSION.search(text)
    if done.exit_status != 0 or not match:
        raise Precondition(
            f"{binary} is not runc",
            details=text.partition("\n")[0],
            hint="crishim checkpoints and restores containers of runc only",
        )
    usage = await process.run([binary, "checkpoint", "--help"], timeout_s=_TIMEOUT_S)
    ignores = b"|ignore" in usage.stdout
    if not ignores and _unified():
        raise Precondition(
            f"with runc {match.group(1)} every dump and restore would take options such as "
            "nsdelegate from the node's own cgroup2 mount",
            hint="install runc 1.2 or newer",
        )
    return RuncFacts(
        version=match.group(1),
        link_remap=b"--link-remap" in usage.stdout,
        cgroups_mode="ignore" if ignores else "soft",
    )


def _unified() -> bool:
    """Return whether the node's cgroups are version 2.

    CRIU mounts that file system once more where it manages cgroups, without the options that the
    node has chosen, which all its mounts share. Source: criu issue 3029.
    """
    root = mounts.mount_at(mounts.read_mounts(), _CGROUPS)
    return root is not None and root.fs_type == "cgroup2"


def cgroup_of(runc: Runc, container: ContainerId) -> Path:
    """Return the cgroup that runc freezes: the unified one, or the freezer's on v1.

    It comes from runc's own state: processes of the container may sit in cgroups below it.
    Raises: NotFound: runc knows no such container. Corrupt: nobody can tell.
    """
    try:
        state = json.loads((runc.root / container / "state.json").read_bytes())
        paths = state["cgroup_paths"]
        return Path(paths.get("freezer") or paths[""])
    except FileNotFoundError as error:
        raise NotFound(f"runc has no state of container {container[:13]}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Corrupt(f"runc's state of container {container[:13]} says nothing") from error


async def end(runc: Runc, container: ContainerId) -> None:
    """End all processes of a container, and have runc forget it; it need not know it.

    Raises: ToolFailed: some may run still.
    """
    done = await process.run(runc.argv("delete", "--force", container), timeout_s=_TIMEOUT_S)
    if done.exit_status != 0:
        raise ToolFailed("runc delete", done.exit_status, details=logs.last_lines(done.stderr))


async def checkpoint(runc: Runc, container: ContainerId, options: CheckpointOptions) -> None:
    """Dump a container through CRIU; without `leave_running` its processes end.

    Raises: ToolFailed: with the last error lines of CRIU's log, which stays in `options.work`.
    On cancel: waits until CRIU has ended; the caller finds out from runc's state what happened.
    """
    log = options.work / "runc.log"
    done = await process.run(
        runc.argv("--log", str(log), "--log-format", "json", *options.argv(container)),
        timeout_s=_TIMEOUT_S,
        env={"CRIU_CONFIG_FILE": str(options.criu_config)},
        never_kill=True,
    )
    if done.exit_status != 0:
        criu_log = options.work / "dump.log"
        details = logs.criu_errors(criu_log) or logs.runc_error(log)
        raise ToolFailed(
            "runc checkpoint",
            done.exit_status,
            details=details or logs.last_lines(done.stderr),
            log_path=str(options.kept_logs / (criu_log if criu_log.exists() else log).name),
        )
