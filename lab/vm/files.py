"""The files that make a node's root a virtual machine's: units, masks, names. Pure text.

The root has no udev, so nothing may wait for a device, and kernel modules are named here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lab.host.network import NodeNet
from lab.node.files import GUEST, containerd_config, node_files

if TYPE_CHECKING:
    from pathlib import Path

    from lab.settings import Options

PORTS = tuple(f"lab{number}" for number in range(4))
_AGENT = "/usr/local/lib/lab/agent.py"
_UNIT_DIRECTORY = "etc/systemd/system"
_UNITS = {
    "lab-agent.service": "sysinit.target.wants",
    "lab-modules.service": "sysinit.target.wants",
    "lab-registry.service": "multi-user.target.wants",
}
_MODULES = (
    *("overlay", "veth", "bridge", "br_netfilter", "tun", "virtio_net"),
    *("nf_tables", "nft_compat", "nft_chain_nat", "nft_masq", "nf_conntrack", "nfnetlink_queue"),
    *("xt_conntrack", "xt_MASQUERADE", "xt_comment", "xt_multiport", "xt_mark", "xt_addrtype"),
    *("xt_tcpudp", "xt_nat", "xt_statistic"),
    *("unix_diag", "inet_diag", "tcp_diag", "udp_diag", "raw_diag", "af_packet_diag"),
    *("netlink_diag", "inet_mptcp_diag", "loop", "erofs"),
)
# Units that wait for devices, or only cost time that emulation makes long.
_MASKED = (
    *("getty@tty1.service", "serial-getty@ttyS0.service", "getty-static.service"),
    *("systemd-networkd.service", "systemd-networkd.socket", "systemd-network-generator.service"),
    *("systemd-networkd-persistent-storage.service", "systemd-random-seed.service"),
    *("systemd-pstore.service", "systemd-hwdb-update.service", "systemd-journal-flush.service"),
    *("systemd-update-utmp.service", "systemd-firstboot.service", "systemd-sysusers.service"),
    *("systemd-journal-catalog-update.service", "systemd-machine-id-commit.service"),
    *("systemd-update-done.service", "systemd-binfmt.service", "ldconfig.service"),
    *("systemd-tpm2-setup.service", "systemd-tpm2-setup-early.service", "modprobe@.service"),
    *("proc-sys-fs-binfmt_misc.automount", "dev-hugepages.mount", "sys-kernel-debug.mount"),
    *("sys-kernel-tracing.mount", "sys-fs-fuse-connections.mount", "nftables.service"),
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer"),
    # It compiles a hundred profiles of programs that are not there; containerd loads its own.
    "apparmor.service",
    *("cni-dhcp.service", "cni-dhcp.socket"),
)
_MORE_FILES = {
    "/etc/fstab": "/dev/nvme0n1 / ext4 rw,noatime 0 0\n",
    # One that is there already: the first start is not taken for the installation's.
    "/etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "/etc/systemd/journald.conf.d/lab.conf": "[Journal]\nStorage=volatile\nRuntimeMaxUse=32M\n",
    "/etc/sysctl.d/lab.conf": "net.ipv4.ip_forward = 1\nnet.ipv6.conf.all.forwarding = 1\n",
}


def machine_files(name: str, options: Options) -> dict[str, str]:
    """Return path and content of every file of the machine that is not a node's as well."""
    files = node_files(name, NodeNet(1, options.cni), options)
    files["/etc/containerd/config.toml"] = containerd_config(options.containerd, whole_machine=True)
    files |= _MORE_FILES
    words = {"@PORTS@": " ".join(PORTS), "@MODULES@": " ".join(_MODULES)}
    for unit in _UNITS:
        text = (GUEST / "vm" / unit).read_text()
        for word, value in words.items():
            text = text.replace(word, value)
        files[f"/{_UNIT_DIRECTORY}/{unit}"] = text
    files[_AGENT] = (GUEST / "vm" / "agent.py").read_text()
    return files


def link_units(root: Path) -> None:
    """Enable the lab's units below a root and mask those that do no good."""
    units = root / _UNIT_DIRECTORY
    for unit, wanted_by in _UNITS.items():
        (units / wanted_by).mkdir(parents=True, exist_ok=True)
        (units / wanted_by / unit).symlink_to(f"../{unit}")
    for unit in _MASKED:
        (units / unit).symlink_to("/dev/null")
    (units / "default.target").symlink_to("/usr/lib/systemd/system/multi-user.target")
