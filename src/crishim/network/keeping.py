"""May a pod keep its address on this node, as far as CNI is concerned? Pure.

An address can be kept where nobody else will give it away and traffic for it comes to wherever the
pod is. The plugins bridge, ptp and flannel with the IPAM plugin host-local are like that: its
reservations can be taken over, and the kernel's own routes lead to the pod. Others keep books of
their own in a cluster's database and drop what does not agree with them (Calico's and Cilium's
protection against spoofed addresses, cloud networks); there only the administrator can know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from crishim.errors import Precondition
from crishim.network import placement

if TYPE_CHECKING:
    from crishim.kernel.net.interface import InterfaceState
    from crishim.network.cni import SandboxNetwork

PLUGINS = ("bridge", "ptp", "flannel")
IPAM = "host-local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the administrator allows; see `NetworkConfig`."""

    unmanaged: bool = False
    astray: bool = False


def doubt(network: SandboxNetwork) -> str:
    """Say why an address of this network cannot be kept; "" if it can."""
    if not network.plugins:
        return "CNI has no record of who gave the pod its address"
    names = "/".join(network.plugins)
    strange = [name for name in network.plugins[:1] if name not in PLUGINS]
    strange += [name for name in network.plugins[1:] if name.startswith(("calico", "cilium"))]
    if strange:
        return f"pods' traffic is led by {', '.join(strange)} (network {network.name}: {names})"
    if network.reservations is None:
        ipam = network.ipam or "no IPAM plugin"
        return f"addresses are given by {ipam}, not {IPAM} (network {network.name}: {names})"
    return ""


def refuse_unmanaged(network: SandboxNetwork, policy: Policy, *, hint: str) -> None:
    """Refuse to keep an address that CNI would give away or not lead here.

    Args: hint: what to do without it.
    Raises: Precondition: it says who gives and leads addresses.
    """
    if not policy.unmanaged and (reason := doubt(network)):
        raise Precondition(
            f"the pod's address cannot be kept: {reason}",
            hint=f"{hint}; or, where this network lets pods bring addresses, set [network] "
            "keep_unmanaged = true",
        )


def refuse_astray(preserved: InterfaceState, own: InterfaceState, policy: Policy) -> None:
    """Refuse a pod's wish for an address outside of this node's subnet.

    Whoever has that subnet may give it to somebody else, who would lose this node's traffic.
    Raises: Precondition: names the addresses.
    """
    if not policy.astray and (astray := placement.astray(preserved, own)):
        raise Precondition(
            f"the address {', '.join(astray)} is outside the pods' subnet of this node, and an "
            "annotation may not bring it here",
            hint="restore the pod on a node of that subnet; or with crishim.io/address: new; or, "
            "where the network leads such addresses here, set [network] keep_astray = true",
        )
