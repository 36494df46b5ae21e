"""What CNI was asked to do for a sandbox, from the cache that libcni keeps of each ADD.

The cache names the network, holds the configuration that was in force then, and the port mappings
of the pod; nothing else tells whether outgoing connections are masqueraded or where host-local
keeps its reservations. Only reading happens here.

Source: github.com/containernetworking/cni, libcni/api.go (cachedInfo) since 0.8;
plugins/ipam/host-local/backend/disk since 0.6.
"""

from __future__ import annotations

import base64
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crishim.ids import SandboxId

_log = logging.getLogger(__name__)
ROOT = Path("/var/lib/cni")


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
        masquerade: whether CNI hides the pod's address from outside its subnet.
        reservations: host-local's directory; None where another IPAM plugin gave the address.
    """

    masquerade: bool = False
    reservations: Path | None = None
    port_mappings: tuple[PortMapping, ...] = ()


def sandbox_network(sandbox: SandboxId, *, root: Path = ROOT) -> SandboxNetwork:
    """Return how CNI attached a sandbox's eth0; where no cache says it, an empty answer."""
    for file in sorted((root / "results").glob(f"*-{sandbox}-eth0")):
        try:
            return _network(json.loads(file.read_bytes()), root)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _log.warning("cannot read CNI's cached result %s: %r", file, error)
    return SandboxNetwork()


def _network(cached: dict[str, Any], root: Path) -> SandboxNetwork:
    config = json.loads(base64.b64decode(cached["config"]))
    plugins: list[dict[str, Any]] = config.get("plugins", [config])
    main: dict[str, Any] = next((item for item in plugins if "ipam" in item), {})
    ipam: dict[str, Any] = main.get("ipam", {})
    reservations = None
    if ipam.get("type") == "host-local":
        parent = Path(ipam.get("dataDir") or root / "networks")
        reservations = parent / str(cached["networkName"])
    mappings = (cached.get("capabilityArgs") or {}).get("portMappings") or []
    return SandboxNetwork(
        masquerade=main.get("ipMasq") is True,
        reservations=reservations,
        port_mappings=tuple(_mapping(item) for item in mappings),
    )


def _mapping(item: dict[str, Any]) -> PortMapping:
    # CNI's convention is "hostPort"; containerd writes its structure's names, "HostPort".
    fields = {key.lower(): value for key, value in item.items()}
    return PortMapping(
        protocol=str(fields["protocol"]).lower(),
        host_port=int(fields["hostport"]),
        container_port=int(fields["containerport"]),
        host_ip=str(fields.get("hostip") or ""),
    )
