"""The daemon's settings: frozen dataclasses, read from one TOML file.

An unknown key is an error that names file, section and key, so a typing error never silently means
a default. Only this module reads files or environment for settings; everybody else is handed the
dataclass.
"""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crishim.errors import InvalidRequest
from crishim.paths import Paths

DEFAULT_FILE = Path("/etc/crishim/config.toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """The socket that kubelet and crictl are pointed at."""

    socket: Path = Path("/run/crishim/crishim.sock")
    """Created 0600 in a directory of 0700."""
    stop_grace_s: float = 20.0
    """How long running calls may go on after SIGTERM; a dump or a restore is always waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerdConfig:
    """The runtime behind us."""

    socket: Path = Path("/run/containerd/containerd.sock")
    namespace: str = "k8s.io"
    """containerd's namespace of CRI containers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointConfig:
    """How checkpoints are taken and restored."""

    disable_mptcp: bool = True
    """Set net.mptcp.enabled=0 in new sandboxes: CRIU refuses MPTCP sockets, and Go programs listen
    with them by default."""
    drain_timeout_s: float = 2.0
    """How long execs may take to end, and after that accept queues to become empty, before the dump
    is refused."""
    timeout_s: float = 600.0
    """Deadline, between the phases, of a dump or a restore whose caller names none. To prepare a
    restore and to start it are two where CRI asks for them."""
    connections_wait_s: float = 3600.0
    """How long the connections of a stopped container wait for its restore before they are let
    go."""
    parallel: int = 2
    """How many dumps run at a time, and how many restores are prepared beside them; further ones
    wait for their turn."""
    layer_files_max: int = 2_000_000
    """A container with more files in its writable layer, or in one volume of its image, is refused:
    while a dump goes on each costs 40 to 60 bytes of memory, and 5 us of its pause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """Which addresses restored pods may keep."""

    keep_unmanaged: bool = False
    """Also those that another IPAM plugin than host-local gave, or whose traffic other plugins than
    bridge, ptp and flannel lead: the network lets a pod bring its address, and gives it to nobody
    else."""
    keep_astray: bool = False
    """Also those outside this node's own subnet where an annotation of a pod asks for them: the
    network leads them to where the pod is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """Logging of the daemon."""

    level: str = "info"
    """debug, info, warning or error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that an administrator may set."""

    server: ServerConfig = field(default_factory=ServerConfig)
    containerd: ContainerdConfig = field(default_factory=ContainerdConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    log: LogConfig = field(default_factory=LogConfig)
    paths: Paths = field(default_factory=Paths)


def load(file: Path | None) -> Config:
    """Read settings from `file`, or from the default file if that exists.

    Args: file: an explicit file, which must exist; None for the default.
    Raises: InvalidRequest: unreadable file, unknown section or key, a value of the wrong type.
    """
    path = file or DEFAULT_FILE
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if file is not None:
            raise InvalidRequest(f"no configuration file {file}") from None
        return Config()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidRequest(f"cannot read {path}", details=str(error)) from error
    sections = {f.name: f.default_factory for f in dataclasses.fields(Config)}
    settings: dict[str, Any] = {}
    for name, table in raw.items():
        factory = sections.get(name)
        if factory is None or factory is dataclasses.MISSING or not isinstance(table, dict):
            known = ", ".join(sections)
            raise InvalidRequest(f"{path}: unknown section [{name}]", hint=f"known: {known}")
        settings[name] = _section(factory(), table, where=f"{path}: [{name}]")
    return Config(**settings)


def _section(default: Any, table: dict[str, Any], *, where: str) -> Any:
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in {f.name for f in dataclasses.fields(default)}:
            raise InvalidRequest(f"{where}: unknown key {key!r}")
        values[key] = _value(getattr(default, key), value, where=f"{where}: {key}")
    return dataclasses.replace(default, **values)


def _value(default: Any, value: Any, *, where: str) -> Any:
    if isinstance(default, Path):
        if not isinstance(value, str) or not value.startswith("/"):
            raise InvalidRequest(f"{where}: an absolute path is needed")
        return Path(value)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not type(default):
        raise InvalidRequest(f"{where}: {type(default).__name__} is needed, not {value!r}")
    if isinstance(value, int | float) and not isinstance(value, bool) and value <= 0:
        raise InvalidRequest(f"{where}: a number above zero is needed")
    return value
