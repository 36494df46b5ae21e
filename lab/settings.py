"""What one lab is: its name, where its files live, and the options it was brought up with.

The environment is read here and nowhere else. Knows no mount, process or network.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Mapping

CONTAINERD_VERSIONS = ("2.4", "2.1", "1.7")
CNI_KINDS = ("bridge", "ptp")
NODES_MAX = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of `up` that shape the nodes; two labs with equal options are alike."""

    nodes: int = 1
    containerd: str = "2.4"
    cni: str = "bridge"
    dual_stack: bool = False
    masquerade: bool = True
    kubernetes: bool = False

    def to_json(self) -> str:
        """Write the options as one JSON object."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Options:
        """Read what `to_json` wrote.

        Raises: ValueError: not JSON. TypeError: keys of another version of the lab.
        """
        return cls(**json.loads(text))

    def __str__(self) -> str:
        flags = [f"{self.nodes} node(s)", f"containerd {self.containerd}", f"cni {self.cni}"]
        if self.dual_stack:
            flags.append("dual-stack")
        if not self.masquerade:
            flags.append("no masquerading")
        if self.kubernetes:
            flags.append("Kubernetes")
        return ", ".join(flags)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Name and places of one lab. Several labs with different names can run at once."""

    name: str
    cache: Path
    state_base: Path
    checkout: Path

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read CRISHIM_LAB_NAME, CRISHIM_CACHE and CRISHIM_LAB_STATE.

        Raises: LabError: the name would not do as part of a file, cgroup and namespace name.
        """
        name = environ.get("CRISHIM_LAB_NAME") or "lab"
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", name):
            raise LabError(f"CRISHIM_LAB_NAME={name!r}: want up to 31 of a-z, 0-9 and -")
        return cls(
            name=name,
            cache=Path(environ.get("CRISHIM_CACHE") or "/var/cache/crishim").absolute(),
            state_base=Path(environ.get("CRISHIM_LAB_STATE") or "/var/lib/crishim-lab").absolute(),
            checkout=Path(__file__).resolve().parent.parent,
        )

    @property
    def state(self) -> Path:
        """Directory of everything that this lab writes while it is up."""
        return self.state_base / self.name

    @property
    def control_dir(self) -> Path:
        """Directory of Kubernetes' control plane."""
        return self.state / "control"

    @property
    def options_file(self) -> Path:
        """Written once the lab is wholly up, removed first by `down`."""
        return self.state / "options.json"

    @property
    def checkout_file(self) -> Path:
        """Names the checkout that the nodes show at /src."""
        return self.state / "checkout"

    @property
    def installed_file(self) -> Path:
        """Hash of the source that the nodes' crishim was built from."""
        return self.state / "installed"

    @property
    def lock_file(self) -> Path:
        """Held by whoever brings this lab up or down."""
        return self.state_base / f"{self.name}.lock"

    @property
    def netns(self) -> str:
        """Name of the lab's network namespace."""
        return f"crishim-{self.name}"

    @property
    def cgroup(self) -> str:
        """Directory that the lab owns in each cgroup hierarchy."""
        return f"crishim-{self.name}"

    @property
    def vm_dir(self) -> Path:
        """Directory of everything that the lab's virtual machine writes on this machine."""
        return self.state_base / f"{self.name}.vm"

    @property
    def vm_lock_file(self) -> Path:
        """Held by whoever brings the virtual machine up or down."""
        return self.state_base / f"{self.name}.vm.lock"

    @property
    def vm_cgroup(self) -> str:
        """Directory that the virtual machine owns in each cgroup hierarchy."""
        return f"crishim-{self.name}.vm"

    def node_names(self, count: int) -> list[str]:
        """Names of the first `count` nodes."""
        return [f"node{number}" for number in range(1, count + 1)]

    def node_dir(self, node: str) -> Path:
        """Directory of one node's files on the machine."""
        return self.state / "nodes" / node

    def read_options(self) -> Options | None:
        """Return the options of a lab that is wholly up, None when there is none."""
        try:
            return Options.from_json(self.options_file.read_text())
        except (FileNotFoundError, ValueError, TypeError):
            return None
