"""A cluster as the tests see it: pods through kubectl, kubelets by their own API.

The cluster is a lab of its own beside the one of the other tests: a kubelet ends every pod on its
node that its API server does not know.
"""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from tests.e2e import nodes
from tests.e2e.waiting import StillWaiting, eventually

if TYPE_CHECKING:
    from collections.abc import Sequence

BUSYBOX = "docker.io/library/busybox:latest"
NAME = f"{os.environ.get('CRISHIM_LAB_NAME') or 'lab'}-kube"
ENVIRONMENT = {**os.environ, "CRISHIM_LAB_NAME": NAME}
READY_WITHIN_S = 60
CLEAN_WITHIN_S = 30  # the kubelet removes what a pod leaves in rounds of its own


@dataclass
class Pod:
    """A pod that the test gave to the API server; its first container is `main`."""

    cluster: Cluster
    name: str

    def get(self) -> dict:
        """Return the pod as the API server has it."""
        return json.loads(self.cluster.kubectl("get", "pod", self.name, "-o", "json"))

    def container(self, name: str = "main") -> dict:
        """Return the status of a container; empty before the kubelet has told of it."""
        told = self.get()["status"].get("containerStatuses", [])
        return next((status for status in told if status["name"] == name), {})

    @cached_property
    def address(self) -> str:
        """The pod's first address."""
        return self.get()["status"]["podIP"]

    @cached_property
    def node(self) -> ClusterNode:
        """The node it runs on."""
        return self.cluster.nodes[self.get()["spec"]["nodeName"]]

    def wait(self, condition: str, *, within_s: float = READY_WITHIN_S) -> Pod:
        """Wait as `kubectl wait --for` does, for example for condition=Ready."""
        words = ("wait", f"pod/{self.name}", f"--for={condition}", f"--timeout={within_s}s")
        try:
            self.cluster.kubectl(*words)
        except nodes.CommandFailed as failed:
            if "timed out waiting" in failed.stderr:
                raise StillWaiting(f"{condition}: {self.get()['status']}") from failed
            raise
        return self

    def wait_restarts(self, count: int, *, within_s: float = READY_WITHIN_S) -> dict:
        """Wait until the kubelet has started the container again so often; return its status."""

        def started_again() -> bool:
            status = self.container()
            return status.get("restartCount", 0) >= count and status["ready"]

        eventually(started_again, within_s=within_s, what=self.container, every_s=0.3)
        return self.container()

    def logs(self, *options: str) -> list[str]:
        """Return the lines of a container's log."""
        return self.cluster.kubectl("logs", self.name, *options).splitlines()

    def exec(self, *words: str) -> str:
        """Run a command in the container through API server, kubelet and CRI."""
        return self.cluster.kubectl("exec", self.name, "--", *words)

    def checkpoint(self, container: str = "main") -> str:
        """Call the kubelet's checkpoint endpoint; return the archive's path on the node."""
        path = f"/checkpoint/default/{self.name}/{container}"
        answer = self.cluster.lab("kubelet-api", self.node.name, "POST", path)
        (archive,) = json.loads(answer)["items"]
        return archive

    def crishim_checkpoint(self, name: str, *options: str, container: str = "main") -> None:
        """Run `crishim checkpoint` for a container, into the node's store."""
        found = self.container(container)["containerID"].removeprefix("containerd://")
        self.node.exec("crishim", "checkpoint", found, "--name", name, *options)

    def ask(self, line: str, *, port: int = 9000) -> str:
        """Send one line to a workload in the pod from outside and return its answer."""
        return nodes.ask(self.address, line, port=port, run=self.cluster.lab)

    def memory_bytes(self, *, within_s: float = READY_WITHIN_S) -> int:
        """Return the memory that the kubelet's statistics say the container uses, once they do."""
        path = f"/api/v1/nodes/{self.node.name}/proxy/stats/summary"

        def used() -> int:
            pods = json.loads(self.cluster.kubectl("get", "--raw", path))["pods"]
            found = [pod for pod in pods if pod["podRef"]["name"] == self.name]
            return found[0]["containers"][0]["memory"].get("workingSetBytes", 0) if found else 0

        return eventually(used, within_s=within_s, what=f"{self.name}: no statistics", every_s=1)

    def probes(self, result: str = "successful") -> int:
        """Return how many probes of the pod the kubelet has counted with that result."""
        counted = self.cluster.lab("kubelet-api", self.node.name, "GET", "/metrics/probes")
        wanted = (f'pod="{self.name}"', f'result="{result}"', "prober_probe_total")
        lines = [line for line in counted.splitlines() if all(word in line for word in wanted)]
        return sum(int(float(line.split()[-1])) for line in lines)

    def wait_probes(self, more: int, *, within_s: float = READY_WITHIN_S) -> None:
        """Wait until the kubelet has probed the pod with success so many times more."""
        before = self.probes()
        what = f"{self.name}: no more probes"
        eventually(lambda: self.probes() >= before + more, within_s=within_s, what=what)

    def events(self, reason: str) -> list[str]:
        """Return the messages of the pod's events of one kind, such as Unhealthy."""
        wanted = f"involvedObject.name={self.name},reason={reason}"
        listed = self.cluster.kubectl("get", "events", "--field-selector", wanted, "-o", "json")
        return [event["message"] for event in json.loads(listed)["items"]]

    def wait_event(self, reason: str, *, within_s: float = READY_WITHIN_S) -> str:
        """Wait for an event of one kind; return its message."""
        what = f"{self.name}: no event {reason}"
        events = eventually(lambda: self.events(reason), within_s=within_s, what=what, every_s=0.3)
        return events[-1]

    def delete(self) -> None:
        """Delete the pod and wait until the kubelet has ended it."""
        self.cluster.kubectl("delete", "pod", self.name, "--ignore-not-found", "--timeout=60s")


@dataclass
class ClusterNode(nodes.Node):
    """One node of the cluster's lab."""

    cluster: Cluster = field(kw_only=True, repr=False)

    def exec(self, *words: str, timeout_s: float = 120) -> str:
        """Run a command on the node and return its output."""
        return self.cluster.lab("exec", self.name, "--", *words, timeout_s=timeout_s)


class Cluster:
    """The lab with Kubernetes, and the pods that the running test made in it."""

    def __init__(self, count: int) -> None:
        self.nodes = {
            f"node{number}": ClusterNode(f"node{number}", cluster=self)
            for number in range(1, count + 1)
        }
        self._pods: list[Pod] = []

    def lab(self, *words: str, stdin: str = "", timeout_s: float = 120) -> str:
        """Run one command of scripts/lab for the cluster's lab; raise CommandFailed."""
        return nodes.lab(*words, stdin=stdin, timeout_s=timeout_s, name=NAME)

    def kubectl(self, *words: str, stdin: str = "") -> str:
        """Run kubectl as the cluster's administrator."""
        return self.lab("kubectl", "--", *words, stdin=stdin)

    def pod(
        self,
        *command: str,
        image: str = BUSYBOX,
        annotations: dict | None = None,
        spec: dict | None = None,
        others: Sequence[dict] = (),
        **container: object,
    ) -> Pod:
        """Give a pod to the API server; it need not run yet.

        Args: others: further containers beside `main`.
        """
        pod = Pod(cluster=self, name=f"pod-{uuid.uuid4().hex[:6]}")
        main = {"name": "main", "image": image, "imagePullPolicy": "Never", **container}
        if command:
            main["command"] = list(command)
        manifest = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": pod.name, "annotations": annotations or {}},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "containers": [main, *others],
                **(spec or {}),
            },
        }
        self._pods.append(pod)
        self.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
        return pod

    def workload(
        self, *arguments: str, node: str = "", spec: dict | None = None, **config: object
    ) -> Pod:
        """Give a pod with the tests' own program to the API server, for one node if named."""
        spec = {**(spec or {}), **({"nodeName": node} if node else {})}
        return self.pod("/workload", *arguments, image=nodes.IMAGE, spec=spec, **config)

    def clean(self) -> None:
        """Delete all pods of the test; their sandboxes too, as the kubelet would a minute later."""
        if names := [pod.name for pod in self._pods]:
            self.kubectl("delete", "pod", *names, "--ignore-not-found", "--timeout=60s")
        self._pods.clear()
        for node in self.nodes.values():
            left = "crictl pods -q --state NotReady"
            node.sh(
                f"for pod in $({left}); do crictl rmp $pod || echo the kubelet was faster; done"
            )
