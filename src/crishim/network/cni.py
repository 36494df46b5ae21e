"""What CNI was asked to do for a sandbox, from the cache that libcni keeps of each ADD.

The cache names the network, holds the configuration that was in force then, and the port mappings
of the pod; nothing else tells whether outgoing connections are masqueraded or where host-local
keeps its reservations. Only reading happens here.

Source: github.com/containernetworking/cni, libcni/api.go (cachedInfo) since 0.8;
plugins/ipam/host-local/backend/disk since 0.6; flannel-io/cni-plugin for what it delegates to.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crishim.kernel import atomic, files

if TYPE_CHECKING:
    from crishim.ids import SandboxId

_log = logging.getLogger(__name__)
ROOT = Path("/var/lib/cni")
_HOST_LOCAL, _FLANNEL = "host-local", "flannel"


@dataclass(frozen=True, slots=True, kw_only=True)
class PortMapping:
    """A port of the node that leads to a port of the pod; `host_ip` "" for all addresses."""

    protocol: str
    host_port: int
    container_port: int
    host_ip: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxNetwork:
    """How a sandbox is attached.

    Attributes:
        name: of the network; "" where CNI's cache tells nothing.
        plugins: the types of its plugins, in their order.
        ipam: the type of its IPAM plugin; "" for none.
        masquerade: whether CNI hides the pod's address from outside its subnet.
        reservations: host-local's directory; None where another IPAM plugin gave the address.
    """

    name: str = ""
    plugins: tuple[str, ...] = ()
    ipam: str = ""
    masquerade: bool = False
    reservations: Path | None = None
    port_mappings: tuple[PortMapping, ...] = ()


def sandbox_network(sandbox: SandboxId, *, root: Path = ROOT) -> SandboxNetwork:
    """Return how CNI attached a sandbox's eth0; where no cache says it, an empty answer.

    Raises: Precondition: nobody can tell whether there is one.
    """
    with atomic.storage_errors("cannot list CNI's cached results"):
        there = files.entries(root / "results")
    for file in (path for path in there if path.match(f"*-{sandbox}-eth0")):
        try:
            return _network(json.loads(file.read_bytes()), root)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _log.warning("cannot read CNI's cached result %s: %r", file, error)
    return SandboxNetwork()


def of_config(config: dict[str, Any], name: str, *, root: Path = ROOT) -> SandboxNetwork:
    """Return what a network's configuration says, of one plugin or of a list of them."""
    plugins: list[dict[str, Any]] = config.get("plugins", [config])
    main: dict[str, Any] = next((item for item in plugins if "ipam" in item), {})
    ipam: dict[str, Any] = main.get("ipam", {})
    kind = str(ipam.get("type") or "")
    if any(item.get("type") == _FLANNEL for item in plugins):
        kind = kind or _HOST_LOCAL  # it has another plugin called with that, and says so nowhere
    directory = Path(ipam.get("dataDir") or root / "networks") / name
    return SandboxNetwork(
        name=name,
        plugins=tuple(_type(item) for item in plugins),
        ipam=kind,
        masquerade=main.get("ipMasq") is True,
        reservations=directory if kind == _HOST_LOCAL else None,
    )


def _network(cached: dict[str, Any], root: Path) -> SandboxNetwork:
    config = json.loads(base64.b64decode(cached["config"]))
    mappings = (cached.get("capabilityArgs") or {}).get("portMappings") or []
    return dataclasses.replace(
        of_config(config, str(cached["networkName"]), root=root),
        port_mappings=tuple(_mapping(item) for item in mappings),
    )


def _type(plugin: dict[str, Any]) -> str:
    """Return what a plugin is: of flannel, which calls bridge, another one that it is to call."""
    kind = str(plugin.get("type"))
    called = str((plugin.get("delegate") or {}).get("type") or "bridge")
    return called if kind == _FLANNEL and called != "bridge" else kind


def _mapping(item: dict[str, Any]) -> PortMapping:
    # CNI's convention is "hostPort"; containerd writes its structure's names, "HostPort".
    fields = {key.lower(): value for key, value in item.items()}
    return PortMapping(
        protocol=str(fields["protocol"]).lower(),
        host_port=int(fields["hostport"]),
        container_port=int(fields["containerport"]),
        host_ip=str(fields.get("hostip") or ""),
    )
