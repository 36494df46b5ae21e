"""Kubernetes' control plane beside the nodes: its files, its programs, their start.

The programs run on the machine's own files, in the lab's network namespace and cgroup. The API
server listens on the lab's address, for nodes and pods; the others on loopback. All data is in
the lab's state and goes with it.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from lab.host import cgroups
from lab.host.network import UNDERLAY_GATEWAY
from lab.kube.config import API_PORT, Identity, kubeconfig, kubelet_files, token_file
from lab.kube.keeper import Keeper
from lab.kube.pki import AUTHORITY, Certificate, create_keys

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lab.settings import Settings

_ETCD = "http://127.0.0.1:2379"
_ETCD_PEER = "http://127.0.0.1:2380"
_SERVICE_RANGE = "10.96.0.0/16"
_SERVICE_RANGE_V6 = "fd96::/112"
_FOLDERS = ("pki", "log", "etcd", "certs")
_CERTIFICATES = [
    Certificate(
        name="apiserver",
        subject="/CN=kube-apiserver",
        names=f"IP:{UNDERLAY_GATEWAY},DNS:lab,DNS:kubernetes.default.svc",
    ),
    Certificate(name="kubelet-client", subject="/O=system:masters/CN=kube-apiserver"),
    Certificate(name="service-account", subject="/CN=service accounts"),
]


def create(
    settings: Settings, nodes: list[str], *, programs: Path, builder: Path
) -> dict[str, dict[str, str]]:
    """Write the control plane's files below the lab's state.

    Args:
        programs: directory of the control plane's programs.
        builder: the builder's root.
    Returns: for each node, path and content of its kubelet's files.
    """
    directory = settings.control_dir
    for folder in _FOLDERS:
        (directory / folder).mkdir(parents=True)
    directory.chmod(0o700)
    (directory / "bin").symlink_to(programs)
    create_keys(builder, directory / "pki", _CERTIFICATES)
    admin = Identity.admin(secrets.token_hex())
    kubelets = {node: Identity.kubelet(node, secrets.token_hex()) for node in nodes}
    (directory / "tokens.csv").write_text(token_file([admin, *kubelets.values()]))
    (directory / "admin.token").write_text(admin.token)
    ca_file = directory / "pki" / f"{AUTHORITY}.crt"
    (directory / "admin.kubeconfig").write_text(kubeconfig(admin, str(ca_file)))
    ca_certificate = ca_file.read_text()
    return {node: kubelet_files(who, ca_certificate) for node, who in kubelets.items()}


def start(settings: Settings, *, dual_stack: bool) -> None:
    """Start the programs in the background; they wait for each other by themselves."""
    directory = settings.control_dir
    cgroup = f"{settings.cgroup}/control"
    cgroups.create(cgroup)
    keeper = Keeper(
        cgroup=cgroup,
        netns_file=f"/run/netns/{settings.netns}",
        logs=str(directory / "log"),
        programs=program_argv(directory, dual_stack=dual_stack),
    )
    with (directory / "log/keeper.log").open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-B", "-m", "lab.kube.keeper", json.dumps(asdict(keeper))],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(settings.checkout)},
            cwd="/",
        )


def program_argv(directory: Path, *, dual_stack: bool) -> dict[str, list[str]]:
    """Return the command of each program of the control plane, by its name."""
    commands = {
        "etcd": _etcd_flags(directory),
        "kube-apiserver": _api_server_flags(directory, dual_stack=dual_stack),
        "kube-controller-manager": [
            f"--kubeconfig={directory}/admin.kubeconfig",
            f"--root-ca-file={directory}/pki/{AUTHORITY}.crt",
            f"--service-account-private-key-file={directory}/pki/service-account.key",
            f"--cert-dir={directory}/certs",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
        ],
        "kube-scheduler": [
            f"--kubeconfig={directory}/admin.kubeconfig",
            f"--cert-dir={directory}/certs",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
        ],
    }
    return {name: [f"{directory}/bin/{name}", *flags] for name, flags in commands.items()}


def _etcd_flags(directory: Path) -> Sequence[str]:
    return (
        "--name=lab",
        f"--data-dir={directory}/etcd",
        f"--listen-client-urls={_ETCD}",
        f"--advertise-client-urls={_ETCD}",
        f"--listen-peer-urls={_ETCD_PEER}",
        f"--initial-advertise-peer-urls={_ETCD_PEER}",
        f"--initial-cluster=lab={_ETCD_PEER}",
        # The data does not outlive the lab, and its fsyncs would slow what runs beside it.
        "--unsafe-no-fsync",
    )


def _api_server_flags(directory: Path, *, dual_stack: bool) -> Sequence[str]:
    pki = f"{directory}/pki"
    services = f"{_SERVICE_RANGE},{_SERVICE_RANGE_V6}" if dual_stack else _SERVICE_RANGE
    return (
        f"--etcd-servers={_ETCD}",
        f"--bind-address={UNDERLAY_GATEWAY}",
        f"--advertise-address={UNDERLAY_GATEWAY}",
        f"--secure-port={API_PORT}",
        f"--service-cluster-ip-range={services}",
        f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key",
        f"--client-ca-file={pki}/{AUTHORITY}.crt",
        f"--token-auth-file={directory}/tokens.csv",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={pki}/service-account.crt",
        f"--service-account-signing-key-file={pki}/service-account.key",
        f"--kubelet-client-certificate={pki}/kubelet-client.crt",
        f"--kubelet-client-key={pki}/kubelet-client.key",
        "--kubelet-preferred-address-types=InternalIP",
        "--allow-privileged=true",
    )
