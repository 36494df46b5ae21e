"""The files that make a plain root a node: configuration, scripts, names.

Pure text in, text out, and one function that writes them below a directory.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from lab.host.network import POD_BRIDGE, UNDERLAY_GATEWAY, NodeNet
from lab.parts.standins import PAUSE_IMAGE

if TYPE_CHECKING:
    from lab.settings import Options

GUEST = Path(__file__).parents[1] / "guest"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
SUPERVISOR = "/usr/local/lib/lab/supervisor.py"
REGISTRY = "/usr/local/lib/lab/registry.py"
KUBELET = "/usr/local/lib/lab/kubelet.py"
KUBERNETES = "/etc/kubernetes"
KUBELET_CONFIG = f"{KUBERNETES}/kubelet.json"
KUBELET_KUBECONFIG = f"{KUBERNETES}/kubelet.kubeconfig"
_SCRIPTS = {
    "kubelet.py": KUBELET,
    "supervisor.py": SUPERVISOR,
    "registry.py": REGISTRY,
    "service.py": "/usr/local/bin/service",
    "critest_lab.py": "/usr/local/bin/critest-lab",
    "install_crishim.py": "/usr/local/sbin/install-crishim",
}

_REGISTRY_HOSTS = "/etc/containerd/certs.d"
_CONTAINERD_V2 = f"""version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{_REGISTRY_HOSTS}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
"""


def _containerd_v3(*, whole_machine: bool) -> str:
    contained, whole = ("false", "true") if whole_machine else ("true", "false")
    return f"""version = 3
[plugins.'io.containerd.cri.v1.images']
  snapshotter = 'overlayfs'
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = '{PAUSE_IMAGE}'
  [plugins.'io.containerd.cri.v1.images'.registry]
    config_path = '{_REGISTRY_HOSTS}'
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = {contained}
  disable_apparmor = {contained}
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = 'io.containerd.runc.v2'
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      SystemdCgroup = {whole}
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ['/usr/lib/cni']
    conf_dir = '/etc/cni/net.d'
"""


def containerd_config(version: str, *, whole_machine: bool = False) -> str:
    """Return containerd's configuration, in the format of the version (2.4, 2.1 or 1.7).

    Args: whole_machine: the node is a machine of its own with systemd and AppArmor. What nodes
        inside namespaces run on may lack CAP_SYS_RESOURCE and AppArmor's user space.
    """
    if version.startswith("1."):
        return _CONTAINERD_V2
    return _containerd_v3(whole_machine=whole_machine)


def cni_config(net: NodeNet, options: Options) -> str:
    """Return the node's CNI network list."""
    ipam: dict[str, object] = {
        "type": "host-local",
        "ranges": net.ranges(dual_stack=options.dual_stack),
        "routes": [{"dst": "0.0.0.0/0"}, *([{"dst": "::/0"}] if options.dual_stack else [])],
    }
    main: dict[str, object] = {"type": options.cni, "ipMasq": options.masquerade, "ipam": ipam}
    if options.cni == "bridge":
        main |= {"bridge": POD_BRIDGE, "isGateway": True, "hairpinMode": True}
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    network = {"cniVersion": "1.0.0", "name": "lab", "plugins": [main, portmap]}
    return json.dumps(network, indent=2) + "\n"


def node_files(node: str, net: NodeNet, options: Options) -> dict[str, str]:
    """Return path and content of every file that is made for one node."""
    hosts = "".join(
        f"{NodeNet(number, options.cni).address} node{number}\n"
        for number in range(1, options.nodes + 1)
    )
    return {
        "/etc/hostname": f"{node}\n",
        "/etc/hosts": f"127.0.0.1 localhost\n::1 localhost\n{UNDERLAY_GATEWAY} lab\n{hosts}",
        "/etc/resolv.conf": "options attempts:1 timeout:1\n",
        "/etc/containerd/config.toml": containerd_config(options.containerd),
        f"{_REGISTRY_HOSTS}/_default/hosts.toml": (
            '[host."http://127.0.0.1:5000"]\ncapabilities = ["pull", "resolve"]\n'
        ),
        "/etc/cni/net.d/10-lab.conflist": cni_config(net, options),
        "/etc/crictl.yaml": ("runtime-endpoint: unix:///run/crishim/crishim.sock\ntimeout: 30\n"),
        "/root/.bashrc": f"PS1='{node}:\\w# '\n",
    }


def write_node_files(root: Path, files: dict[str, str]) -> None:
    """Write the node's own files and the lab's scripts below a directory."""
    for name, content in files.items():
        target = root / name.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)
    for source, name in _SCRIPTS.items():
        target = root / name.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(GUEST / source, target)
        target.chmod(0o755)
    link = root / "usr/local/bin/crishim"
    link.symlink_to("/opt/crishim/bin/crishim")


def kubelet_flags(node: str, net: NodeNet, *, dual_stack: bool) -> list[str]:
    """Return the kubelet's command line, without the program."""
    addresses = [net.address, net.address_v6] if dual_stack else [net.address]
    return [
        f"--config={KUBELET_CONFIG}",
        f"--kubeconfig={KUBELET_KUBECONFIG}",
        f"--hostname-override={node}",
        f"--node-ip={','.join(addresses)}",
    ]
