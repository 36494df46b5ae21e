"""Addresses, bridges and routes of the lab, all inside namespaces of its own.

The lab's namespace stands for the machine: bridge `lab-u` joins the nodes' eth0, and pods are one
routed hop away, behind their node. With the bridge CNI plugin, bridge `lab-p` joins the nodes'
pod bridges to one flat layer 2, so that a pod's address can live on either node; the lab itself
has no address there. With ptp each node has a range of its own and no layer 2 in common.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lab.host.remove import mounts
from lab.run import run

UNDERLAY_GATEWAY = "192.168.50.1"
UNDERLAY_GATEWAY_V6 = "fd50::1"
POD_BRIDGE = "cr0"
_UMOUNT_BUSY = 32


@dataclass(frozen=True, slots=True)
class NodeNet:
    """The addresses of one node, by its number (1 to 9)."""

    number: int
    cni: str

    @property
    def address(self) -> str:
        """The node's own address."""
        return f"192.168.50.{10 + self.number}"

    @property
    def address_v6(self) -> str:
        """The node's own address, version 6."""
        return f"fd50::{10 + self.number}"

    @property
    def mac(self) -> str:
        """The node's own hardware address: the same at each `up`."""
        return f"02:50:00:00:00:{10 + self.number:02x}"

    @property
    def pod_gateway(self) -> str:
        """What pods of the bridge plugin route through, on their own node."""
        return f"10.88.{self.number}.1"

    @property
    def pod_gateway_v6(self) -> str:
        """The same, version 6."""
        return f"fd88::{self.number}:1"

    @property
    def pod_route(self) -> str:
        """What the lab routes to this node."""
        return f"10.88.{self.number}.0/24" if self.cni == "bridge" else f"10.89.{self.number}.0/24"

    @property
    def pod_route_v6(self) -> str:
        """What the lab routes to this node, version 6."""
        if self.cni == "bridge":
            return f"fd88::{self.number}:0/112"
        return f"fd89:0:0:{self.number}::/64"

    def ranges(self, *, dual_stack: bool) -> list[list[dict[str, str]]]:
        """Return the ranges of the host-local plugin."""
        if self.cni == "bridge":
            v4 = {
                "subnet": "10.88.0.0/16",
                "rangeStart": f"10.88.{self.number}.10",
                "rangeEnd": f"10.88.{self.number}.250",
                "gateway": self.pod_gateway,
            }
            v6 = {
                "subnet": "fd88::/64",
                "rangeStart": f"fd88::{self.number}:10",
                "rangeEnd": f"fd88::{self.number}:ffff",
                "gateway": self.pod_gateway_v6,
            }
        else:
            v4, v6 = {"subnet": self.pod_route}, {"subnet": self.pod_route_v6}
        return [[v4], [v6]] if dual_stack else [[v4]]


def create_lab(netns: str, *, dual_stack: bool) -> None:
    """Make the lab's namespace with its two bridges."""
    run(["ip", "netns", "add", netns])
    lines = [
        "link set lo up",
        "link add lab-u type bridge forward_delay 0",
        f"address add {UNDERLAY_GATEWAY}/24 dev lab-u",
        "link set lab-u up",
        "link add lab-p type bridge forward_delay 0",
        "link set lab-p up",
    ]
    if dual_stack:
        lines.append(f"address add {UNDERLAY_GATEWAY_V6}/64 dev lab-u nodad")
    netns_file = f"/run/netns/{netns}"
    _sysctl(netns_file)
    _ip(netns_file, lines)


def join_node(netns: str, pid: int, node: NodeNet, *, dual_stack: bool) -> None:
    """Connect a node, whose process 1 has an empty network namespace, to the lab."""
    lab_file, node_file = f"/run/netns/{netns}", f"/proc/{pid}/ns/net"
    lab = [
        f"link add u{node.number} type veth peer name eth0 address {node.mac} netns {pid}",
        f"link set u{node.number} master lab-u up",
    ]
    inside = ["link set lo up", "link set eth0 up", f"address add {node.address}/24 dev eth0"]
    routes = [f"route add default via {UNDERLAY_GATEWAY}"]
    lab_routes = [f"route add {node.pod_route} via {node.address}"]
    if dual_stack:
        inside.append(f"address add {node.address_v6}/64 dev eth0 nodad")
        routes.append(f"route add default via {UNDERLAY_GATEWAY_V6}")
        lab_routes.append(f"route add {node.pod_route_v6} via {node.address_v6}")
    if node.cni == "bridge":
        lab.append(f"link add p{node.number} type veth peer name up0 netns {pid}")
        lab.append(f"link set p{node.number} master lab-p up")
        inside += _pod_bridge(node, dual_stack=dual_stack)
    _sysctl(node_file)
    _ip(lab_file, lab)
    _ip(node_file, inside + routes)
    _ip(lab_file, lab_routes)


def delete_lab(netns: str) -> None:
    """Remove the lab's namespace, and with it every link; fine if there is none."""
    if Path("/run/netns", netns).exists():
        run(["ip", "netns", "delete", netns])
    names = Path("/run/netns")
    if any(point == names for point, _ in mounts()) and not list(names.iterdir()):
        # The first `ip netns add` leaves a mount there; it is busy, and stays, if others came.
        run(["umount", str(names)], ok_exits=(0, _UMOUNT_BUSY))


def _pod_bridge(node: NodeNet, *, dual_stack: bool) -> list[str]:
    """Return the commands for the bridge that the CNI plugin joins, gateway address included.

    The plugin would add the address with the first pod; the lab's route needs it before that.
    """
    lines = [
        f"link add {POD_BRIDGE} address 02:88:00:00:00:{node.number:02x} type bridge"
        " forward_delay 0",
        f"link set up0 master {POD_BRIDGE} up",
        f"link set {POD_BRIDGE} up",
        f"address add {node.pod_gateway}/16 dev {POD_BRIDGE}",
    ]
    if dual_stack:
        lines.append(f"address add {node.pod_gateway_v6}/64 dev {POD_BRIDGE} nodad")
    return lines


def _ip(netns_file: str, lines: list[str]) -> None:
    run(["nsenter", f"--net={netns_file}", "ip", "-batch", "-"], stdin="\n".join(lines) + "\n")


def _sysctl(netns_file: str) -> None:
    """Route in this namespace, both ways and without redirects: neighbours share one link."""
    settings = {
        "net.ipv4.ip_forward": "1",
        "net.ipv4.conf.all.rp_filter": "0",
        "net.ipv4.conf.default.rp_filter": "0",
        "net.ipv4.conf.all.send_redirects": "0",
        "net.ipv4.conf.default.send_redirects": "0",
        "net.ipv6.conf.all.forwarding": "1",
        "net.ipv6.conf.default.accept_ra": "0",
    }
    # /proc/sys/net shows the namespace of whoever opens it, on the machine's own /proc.
    words = [f"{key}={value}" for key, value in settings.items()]
    run(["nsenter", f"--net={netns_file}", "sysctl", "-q", "-e", "-w", *words])
