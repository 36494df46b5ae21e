"""What Kubernetes' programs read: credentials, kubeconfigs, the kubelet's configuration.

Pure text. JSON throughout, which is YAML too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab.host.network import UNDERLAY_GATEWAY
from lab.node.files import KUBELET_CONFIG, KUBELET_KUBECONFIG, KUBERNETES

if TYPE_CHECKING:
    from collections.abc import Iterable

API_PORT = 6443
KUBELET_PORT = 10250
API_SERVER = f"https://{UNDERLAY_GATEWAY}:{API_PORT}"
CRISHIM_ENDPOINT = "unix:///run/crishim/crishim.sock"
_CA_FILE = f"{KUBERNETES}/ca.crt"


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody whom the API server knows by a token."""

    user: str
    group: str
    token: str

    @classmethod
    def admin(cls, token: str) -> Identity:
        """May do everything: people, controllers, the scheduler."""
        return cls("admin", "system:masters", token)

    @classmethod
    def kubelet(cls, node: str, token: str) -> Identity:
        """May do what the kubelet of one node must."""
        return cls(f"system:node:{node}", "system:nodes", token)


def token_file(identities: Iterable[Identity]) -> str:
    """Return a file for the API server's --token-auth-file."""
    return "".join(f"{who.token},{who.user},{who.user},{who.group}\n" for who in identities)


def kubeconfig(who: Identity, ca_file: str) -> str:
    """Return the file with which a client finds the API server and is known to it."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "lab",
                "cluster": {"server": API_SERVER, "certificate-authority": ca_file},
            }
        ],
        "users": [{"name": who.user, "user": {"token": who.token}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": who.user}}],
        "current-context": "lab",
    }
    return json.dumps(config, indent=2) + "\n"


def kubelet_configuration() -> str:
    """Return the kubelet's configuration: the same on all nodes.

    Thresholds are off because the nodes share the machine's disk and memory: what else fills it
    must not evict a pod. Kernel settings are the machine's and not the kubelet's to change.
    """
    thresholds = (
        "memory.available",
        "nodefs.available",
        "nodefs.inodesFree",
        "imagefs.available",
        "imagefs.inodesFree",
    )
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": CRISHIM_ENDPOINT,
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "protectKernelDefaults": True,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": _CA_FILE},
        },
        "authorization": {"mode": "Webhook"},
        "evictionHard": dict.fromkeys(thresholds, "0%"),
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
    }
    return json.dumps(config, indent=2) + "\n"


def kubelet_files(who: Identity, ca_certificate: str) -> dict[str, str]:
    """Return path and content of the files that a node's kubelet reads."""
    return {
        _CA_FILE: ca_certificate,
        KUBELET_CONFIG: kubelet_configuration(),
        KUBELET_KUBECONFIG: kubeconfig(who, _CA_FILE),
    }
