"""The lab's virtual machine as the tests see it: a node with systemd and cgroup v2.

It is emulated and slow, so times are generous here and never compared. The client lives in a
network namespace of the machine, one routed hop away from the pods.
"""

from __future__ import annotations

import json
import subprocess
import uuid
from pathlib import Path

from lab.parts.oci import Image, write_archive, write_layer
from tests.e2e import nodes
from tests.e2e.waiting import eventually

TIMEOUT_S = 280
USER_IMAGE = "crishim.test/workload-user:1"
_OUTSIDE = """
ip netns list | grep -qw outside && exit 0
ip netns add outside
ip link add outside0 type veth peer name eth0 netns outside
ip address add 192.168.60.1/24 dev outside0
ip link set outside0 up
ip -n outside link set lo up
ip -n outside address add 192.168.60.2/24 dev eth0
ip -n outside link set eth0 up
ip -n outside route add default via 192.168.60.1
"""


def slice_of(uid: str) -> str:
    """Return the slice that a kubelet with systemd's cgroup driver gives to a pod."""
    return f"kubepods-besteffort-pod{uid.replace('-', '_')}.slice"


class Machine(nodes.Node):
    """The virtual machine; each pod has a slice of its own, as a kubelet has it."""

    def __init__(self) -> None:
        super().__init__("vm")

    def exec(self, *words: str, timeout_s: float = TIMEOUT_S) -> str:
        return nodes.lab("vm", "exec", "-t", str(timeout_s), "--", *words, timeout_s=timeout_s + 20)

    def sh(self, script: str, timeout_s: float = TIMEOUT_S) -> str:
        return super().sh(script, timeout_s)

    def crictl(self, *words: str) -> str:
        return self.exec("crictl", "--timeout", f"{TIMEOUT_S}s", *words)

    def write_json(self, value: object) -> str:
        path = f"/tmp/{uuid.uuid4().hex[:8]}.json"
        argv = [str(nodes.LAB), "vm", "exec", "--", "sh", "-c", f"cat > {path}"]
        subprocess.run(argv, input=json.dumps(value), text=True, check=True, timeout=60)
        return path

    def pod(self, *, annotations: dict | None = None, **config: object) -> nodes.Pod:
        uid = str(uuid.uuid4())
        linux = {"cgroup_parent": slice_of(uid), **config.pop("linux", {})}
        metadata = {"name": f"pod-{uid[:6]}", "namespace": "default", "uid": uid}
        return super().pod(annotations=annotations, linux=linux, metadata=metadata, **config)

    def clean(self) -> None:
        super().clean()
        self.exec("systemctl", "stop", "kubepods.slice")  # a kubelet removes slices of its own

    def show(self, unit: str, *properties: str) -> list[str]:
        """Return properties of a unit, as systemctl prints them."""
        words = [f"--property={name}" for name in properties]
        shown = dict(
            line.split("=", 1) for line in self.exec("systemctl", "show", unit, *words).splitlines()
        )
        return [shown[name] for name in properties]

    def wait_for(self, unit: str, state: str = "active", *, within_s: float = TIMEOUT_S) -> None:
        """Wait until a unit is in that state; fail if it does not get there."""
        eventually(
            lambda: self.show(unit, "ActiveState") == [state],
            within_s=within_s,
            what=lambda: f"{unit} is {self.show(unit, 'ActiveState')}",
            every_s=1,
        )

    def wait_listening(self, address: str) -> None:
        """Wait until a workload has filled its memory and answers."""
        self.sh(f"until ip netns exec outside nc -z {address} 9000; do sleep 0.2; done")

    def ask(self, address: str, line: str) -> str:
        """Send one line to a workload from outside and return its answer."""
        return nodes.ask(address, line, run=self._outside)

    def _outside(self, net: str, dashes: str, *words: str) -> str:
        assert (net, dashes) == ("net", "--")
        return self.exec("ip", "netns", "exec", "outside", *words)

    def prepare(self, directory: Path) -> None:
        """Give the machine the workload's images, the client and a place for it outside."""
        root = directory / "root"
        (root / "tmp").mkdir(parents=True)
        (root / "tmp").chmod(0o1777)
        nodes.lab("go", str(nodes.ROOT / "tests" / "workload"), str(root / "workload"))
        layers = (write_layer(root, directory / "layer.tar"),)
        images = [
            Image(reference=reference, layers=layers, command=("/workload",), user=user)
            for reference, user in ((nodes.IMAGE, ""), (USER_IMAGE, "1000"))
        ]
        with (directory / "images.tar").open("wb") as file:
            write_archive(images, file)
        nodes.lab("vm", "push", str(directory / "images.tar"), str(nodes.CLIENT.parent), "/root")
        self.exec("ctr", "-n", "k8s.io", "image", "import", "--no-unpack", "/root/images.tar")
        self.sh(_OUTSIDE)


class Client(nodes.Client):
    """The client in the machine's namespace `outside`."""

    COMMAND = (
        *(str(nodes.LAB), "vm", "exec", "--"),
        *("ip", "netns", "exec", "outside", "python3", f"/root/workload/{nodes.CLIENT.name}"),
    )
    INTERFACE = "eth0"
    LIFE_S = 800
