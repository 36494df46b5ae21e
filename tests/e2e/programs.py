"""Programs for containers that do one odd thing, in Python from the node's own /usr.

The image holds nothing but links; the container mounts the node's /usr, read-only. Not for restores
elsewhere, and not for what a test of the ordinary is about: that is `tests/workload`.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e import nodes
from tests.e2e.waiting import eventually

IMAGE = "crishim.test/host:1"
IMAGE_WITH_VOLUME = "crishim.test/host-volume:1"
USR = {"container_path": "/usr", "host_path": "/usr", "readonly": True}
_WAIT = "\nprint('ready')\nwhile True: time.sleep(1)"


def make_image(directory: Path, *, name: str = IMAGE, volumes: tuple[str, ...] = ()) -> None:
    """Give the image to the nodes; `directory` may hold more that is to be in it."""
    for part in ("usr", "tmp", "etc"):
        (directory / part).mkdir()
    for part in ("bin", "lib", "lib64"):
        (directory / part).symlink_to(f"usr/{part}")
    options = [word for place in volumes for word in ("--volume", place)]
    nodes.lab("image", name, str(directory), *options, "--", "/bin/sh")


def run(
    pod: nodes.Pod,
    code: str,
    *,
    image: str = IMAGE,
    mounts: tuple[dict, ...] = (),
    **config: object,
) -> str:
    """Run Python code in a new container and wait until it has got through; returns its id."""
    source = f"import ctypes, os, socket, time\n{code}{_WAIT}"
    container = pod.create(
        image, command=["python3", "-uc", source], mounts=[USR, *mounts], **config
    )
    pod.node.crictl("start", container)

    def says() -> str:
        return pod.node.crictl("logs", container)

    eventually(lambda: "ready" in says(), within_s=30, what=says)
    return container


def pid(node: nodes.Node, container: str) -> int:
    """Return the id that a container's first process has on the node."""
    return int(json.loads(node.crictl("inspect", container))["info"]["pid"])
