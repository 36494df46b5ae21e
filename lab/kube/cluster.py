"""Kubernetes on the lab's nodes: join them, ask the API server, ask a kubelet."""

from __future__ import annotations

import json
import ssl
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NoReturn

from lab.errors import LabError
from lab.host.network import NodeNet
from lab.kube.config import KUBELET_PORT
from lab.node.enter import check_node, enter_lab_net, exec_in_lab_net
from lab.run import run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lab.settings import Settings

_READY_TIMEOUT_S = 90.0
_POLL_S = 0.25
_START_KUBELET = ["service", "kubelet", "start"]


def kubectl_argv(settings: Settings, arguments: Sequence[str]) -> list[str]:
    """Return the command line of kubectl as the cluster's administrator.

    Raises: LabError: the lab has no Kubernetes.
    """
    directory = settings.control_dir
    if not directory.is_dir():
        raise LabError(f"lab {settings.name!r} has no Kubernetes: scripts/lab up --kubernetes")
    config = ["--kubeconfig", f"{directory}/admin.kubeconfig"]
    return [f"{directory}/bin/kubectl", *config, "--cache-dir", f"{directory}/cache", *arguments]


def exec_kubectl(settings: Settings, arguments: Sequence[str]) -> NoReturn:
    """Become kubectl, next to the nodes.

    Raises: LabError: the lab is not up or has no Kubernetes.
    """
    exec_in_lab_net(settings, kubectl_argv(settings, arguments))


def join_nodes(settings: Settings, nodes: list[str]) -> None:
    """Start the kubelets and wait until pods can be made on every node.

    Raises: LabError: not so within 90 s; says what is missing.
    """
    deadline = time.monotonic() + _READY_TIMEOUT_S
    _wait(settings, ["get", "--raw", "/readyz"], deadline)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda node: check_node(settings, node, _START_KUBELET), nodes))
    # Pods are refused before the controller has made the account that they run under.
    _wait(settings, ["get", "serviceaccount", "default"], deadline)
    while missing := set(nodes) - ready_nodes(_kubectl(settings, ["get", "nodes", "-o", "json"])):
        if time.monotonic() > deadline:
            raise LabError(f"not Ready: {', '.join(sorted(missing))}: scripts/lab logs NODE")
        time.sleep(_POLL_S)


def ready_nodes(node_list: str) -> set[str]:
    """Return the names of the Ready nodes in the JSON of a NodeList."""
    return {
        node["metadata"]["name"]
        for node in json.loads(node_list)["items"]
        for condition in node["status"].get("conditions", ())
        if condition["type"] == "Ready" and condition["status"] == "True"
    }


def _kubectl(settings: Settings, arguments: Sequence[str]) -> str:
    enter = ["nsenter", f"--net=/run/netns/{settings.netns}"]
    return run([*enter, *kubectl_argv(settings, arguments)])


def _wait(settings: Settings, arguments: Sequence[str], deadline: float) -> None:
    while True:
        try:
            _kubectl(settings, arguments)
        except LabError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)
        else:
            return


def call_kubelet(settings: Settings, node: str, method: str, path: str) -> int:
    """Call a kubelet's own API as the administrator and print its answer.

    Returns: 0 for an answer of 200 to 299, else 1; the status then goes to stderr.
    Raises: LabError: the lab has no Kubernetes, or the kubelet cannot be reached.
    """
    kubectl_argv(settings, ())  # says so if there is no Kubernetes
    token = (settings.control_dir / "admin.token").read_text()
    enter_lab_net(settings)
    address = NodeNet(int(node.removeprefix("node")), "bridge").address
    request = urllib.request.Request(
        f"https://{address}:{KUBELET_PORT}/{path.lstrip('/')}",
        method=method,
        headers={"Authorization": f"Bearer {token}"},
    )
    unverified = ssl.create_default_context()  # a kubelet signs its own certificate
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen(request, context=unverified) as answer:
            print(answer.read().decode(errors="replace"))
            return 0
    except urllib.error.HTTPError as refused:
        print(f"{refused.code} {refused.reason}", file=sys.stderr)
        print(refused.read().decode(errors="replace"))
        return 1
    except urllib.error.URLError as problem:
        raise LabError(f"{node}: kubelet: {problem.reason}") from problem
