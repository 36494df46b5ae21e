"""Can pods keep their addresses on this node's network?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from crishim.doctor.finding import Finding, ok, warning
from crishim.network import cni, keeping

if TYPE_CHECKING:
    from collections.abc import Mapping

_LOOPBACK = "loopback"


def plugins(configurations: Mapping[str, str], *, keep_unmanaged: bool) -> Finding:
    """Judge the CNI plugins that containerd calls for pods.

    Args: configurations: the text of each network's, by its name.
    """
    networks = [cni.of_config(json.loads(text), name) for name, text in configurations.items()]
    found = [network for network in networks if network.plugins[:1] != (_LOOPBACK,)]
    if not found:
        return warning(
            "network.cni",
            "containerd has no CNI configuration: there are no pods with a network of their own",
            cure="put one into /etc/cni/net.d",
        )
    doubts = [reason for network in found if (reason := keeping.doubt(network))]
    if not doubts:
        names = ", ".join("/".join(network.plugins) for network in found)
        return ok("network.cni", f"pods can keep their addresses ({names}, {keeping.IPAM})")
    if keep_unmanaged:
        return ok("network.cni", f"{doubts[0]}; [network] keep_unmanaged lets pods keep them")
    return warning(
        "network.cni",
        f"pods cannot keep their addresses and connections: {doubts[0]}",
        cure="checkpoint with --tcp close and restore with a new address; or, where this network "
        "lets pods bring addresses, set [network] keep_unmanaged = true",
    )
