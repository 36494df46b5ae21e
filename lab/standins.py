"""Small local images under the names that CRI tests ask for, so that nothing is pulled.

Each is a static busybox with what the test of that name needs: a server, a user, a group.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from lab.cache import cached, recipe_key
from lab.nodefiles import PAUSE_IMAGE
from lab.oci import Blob, Image, write_archive, write_layer
from lab.run import run

_E2E = "registry.k8s.io/e2e-test-images"
_STAGING = "gcr.io/k8s-staging-cri-tools"
_BUSYBOX_NAMES = (f"{_E2E}/busybox:1.29-2", "docker.io/library/busybox:latest")
_PASSWD = (
    "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n"
    "www-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n"
)
_GROUP = "root:x:0:\ndaemon:x:1:\nwww-data:x:33:\nnogroup:x:65534:\n"


def standin_images(cache: Path, base: Path, tools: Path) -> Path:
    """Return an OCI archive with all stand-ins.

    Args:
        cache: the cache folder.
        base: a node's root, for its static busybox.
        tools: the layer with the pause program.
    """
    recipe = recipe_key(Path(__file__).read_bytes(), base.name, tools.name)
    return cached(cache, "standins", recipe, lambda out: _build(out, base, tools)) / "images.tar"


def _build(out: Path, base: Path, tools: Path) -> None:
    busybox = _layer(out, "busybox", lambda root: _busybox_root(root, base / "usr/bin/busybox"))
    pause = _layer(out, "pause", lambda root: _pause_root(root, tools))
    web = _layer(out, "web", _web_root)
    images = [Image(reference=PAUSE_IMAGE, layers=(pause,), command=("/pause",))]
    images += [
        Image(reference=name, layers=(busybox,), command=("sh",)) for name in _BUSYBOX_NAMES
    ]
    images += [
        Image(reference=name, layers=(busybox, web), command=("/bin/serve",))
        for name in (f"{_E2E}/nginx:1.14-2", f"{_E2E}/httpd:2.4.39-4")
    ]
    with (out / "images.tar").open("wb") as target:
        write_archive(images, target)
    for path in out.glob("*.layer"):
        path.unlink()


def _layer(out: Path, name: str, fill: object) -> Blob:
    root = out / f"{name}.root"
    root.mkdir()
    assert callable(fill)
    fill(root)
    blob = write_layer(root, out / f"{name}.layer")
    shutil.rmtree(root)
    return blob


def _busybox_root(root: Path, busybox: Path) -> None:
    for folder in ("bin", "etc", "tmp", "root", "proc", "sys", "dev", "var/www", "home"):
        (root / folder).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    shutil.copyfile(busybox, root / "bin/busybox")
    (root / "bin/busybox").chmod(0o755)
    for applet in run([str(busybox), "--list"]).split():
        if applet != "busybox":
            os.link(root / "bin/busybox", root / "bin" / applet)
    (root / "etc/passwd").write_text(_PASSWD)
    (root / "etc/group").write_text(_GROUP)


def _pause_root(root: Path, tools: Path) -> None:
    shutil.copyfile(tools / "usr/local/lib/lab/pause", root / "pause")
    (root / "pause").chmod(0o755)


def _web_root(root: Path) -> None:
    (root / "bin").mkdir()
    (root / "var/www").mkdir(parents=True)
    (root / "var/www/index.html").write_text("<title>Welcome to nginx!</title>\n")
    serve = root / "bin/serve"
    serve.write_text("#!/bin/sh\nexec httpd -f -p 80 -h /var/www\n")
    serve.chmod(0o755)
