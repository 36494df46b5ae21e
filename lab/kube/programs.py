"""Kubernetes and etcd, built at pinned versions.

The kubelet is a layer of the nodes; the rest is for the machine, where the control plane runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lab.parts.gotools import GoBuild, go_layer

if TYPE_CHECKING:
    from pathlib import Path

_KUBERNETES = "k8s.io/kubernetes"


def _kubernetes(*programs: str, directory: str) -> GoBuild:
    return GoBuild(
        module="kubernetes",
        packages=tuple(f"{_KUBERNETES}/cmd/{program}" for program in programs),
        directory=directory,
        version_of=_KUBERNETES,
        version_variable="k8s.io/component-base/version.gitVersion",
    )


_KUBELET = (_kubernetes("kubelet", directory="usr/local/bin"),)
_CONTROL_PLANE = (
    GoBuild(module="etcd", packages=(".",), directory="bin"),
    _kubernetes(
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kubectl",
        directory="bin",
    ),
)


def kubelet_layer(cache: Path) -> Path:
    """Return a layer with the kubelet on a node's PATH."""
    return go_layer(cache, "kubelet", _KUBELET)


def control_plane_programs(cache: Path) -> Path:
    """Return a directory with etcd, the control plane's programs and kubectl."""
    return go_layer(cache, "control-plane", _CONTROL_PLANE) / "bin"
