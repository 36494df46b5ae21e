"""Small local images under the names that CRI tests ask for, so that nothing is pulled.

Each is a static busybox with what the test of that name needs: a server, a user, a group.
"""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from lab.host.remove import remove_tree
from lab.parts.cache import cached, recipe_key
from lab.parts.oci import ARCHITECTURES, Blob, Image, write_archive, write_layer
from lab.run import run

if TYPE_CHECKING:
    from collections.abc import Callable

_E2E = "registry.k8s.io/e2e-test-images"
PAUSE_IMAGE = "registry.k8s.io/pause:3.10"
_STAGING = "gcr.io/k8s-staging-cri-tools"
# One process of one thread, like the real one: threads would take process ids that a checkpoint
# restored into the pod's pid namespace needs. Unlike the real one it reaps no orphans.
_PAUSE = ("tail", "-f", "/dev/null")
_WEB_ROOT = "/usr/share/nginx/html"
_OCI_DIRECTORY = "layer/usr/local/share/lab/oci/standins"
# Applets that this busybox lacks.
_PGREP = '#!/bin/sh\nexec pidof "$1"\n'
_IPCS = "#!/bin/sh\nexec awk 'NR > 1 { print $2 }' /proc/sysvipc/shm\n"
# A master process of the name, argument and pid file that tests look for.
_NGINX = """#!/bin/sh
httpd -f -p {port} -h {root} &
trap "kill $!; exit" TERM QUIT INT
echo $$ > /var/run/nginx.pid
wait
"""
_PASSWD = (
    "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n"
    "www-data:x:33:33:www-data:/var/www:/bin/false\n"
    "default-user:x:1000:1000::/home/default-user:/bin/sh\n"
    "nobody:x:65534:65534:nobody:/:/bin/false\n"
)
_GROUP = (
    "root:x:0:\ndaemon:x:1:\nwww-data:x:33:\ndefault-user:x:1000:\n"
    "group-defined-in-image:x:50000:default-user\nnogroup:x:65534:\n"
)
_USERS = {
    "test-image-user-uid": "1002",
    "test-image-user-username": "www-data",
    "test-image-user-uid-group": "1003:1004",
    "test-image-user-username-group": "www-data:1004",
    "test-image-predefined-group": "1000",
}
_PLAIN = (
    *(f"test-image-{which}:latest" for which in ("latest", "1", "2", "3")),
    *(f"test-image-tag:{tag}" for tag in ("test", "all")),
)


def standin_images(cache: Path, base: Path, tools: Path) -> Path:
    """Return a directory with the stand-ins: `images.tar` for an import, `layer/` for a node.

    The layer holds the same images for the node's own registry.

    Args:
        cache: the cache folder.
        base: a node's root, for its static busybox.
        tools: the layer with the programs of the stand-ins.
    """
    code = [(Path(__file__).parent / name).read_bytes() for name in ("standins.py", "oci.py")]
    recipe = recipe_key(*code, base.name, tools.name)
    return cached(cache, "standins", recipe, lambda out: _build(out, base, tools))


def _build(out: Path, base: Path, tools: Path) -> None:
    programs = tools / "usr/local/lib/lab"
    layers = {
        "busybox": _layer(out, lambda root: _busybox_root(root, base / "usr/bin/busybox")),
        "nnp": _layer(out, lambda root: _program(root, programs / "nonewprivs", 0o4755)),
        "web": _layer(out, lambda root: _web_root(root, port=80)),
        "hostweb": _layer(out, lambda root: _web_root(root, port=12003)),
    }
    with (out / "images.tar").open("wb") as target:
        write_archive(standin_list(layers), target)
    for path in out.glob("*.tar.layer"):
        path.unlink()
    layout = out / _OCI_DIRECTORY
    layout.mkdir(parents=True)
    run(["tar", "--extract", "--file", str(out / "images.tar"), "--directory", str(layout)])


def standin_list(layers: dict[str, Blob]) -> list[Image]:
    """Return all stand-ins, made of the named layers.

    Each has a label of its own and so an id of its own: removing one by id, as tests do, must
    not take others along.
    """
    busybox, shell = (layers["busybox"],), ("sh",)
    web, host_web = (*busybox, layers["web"]), (*busybox, layers["hostweb"])
    nginx, httpd = ("/bin/nginx", "master process"), ("sh", "-c", "echo httpd; exec nginx")
    architecture = ARCHITECTURES.get(platform.machine(), platform.machine())
    same_image = [f"{_STAGING}/test-image-tags:{tag}" for tag in (1, 2, 3)]
    return [
        _image(PAUSE_IMAGE, busybox, _PAUSE),
        _image("docker.io/library/busybox:latest", busybox, shell),
        _image(f"{_E2E}/busybox:1.29-2", busybox, shell),
        _image(f"{_E2E}/nginx:1.14-2", web, nginx),
        _image(f"{_E2E}/httpd:2.4.39-4", web, httpd),
        _image(f"{_STAGING}/hostnet-nginx-{architecture}:latest", host_web, nginx),
        _image(f"{_E2E}/nonewprivs:1.3", (layers["nnp"],), ("/nonewprivs",)),
        *(_image(f"{_STAGING}/{name}", busybox, shell) for name in _PLAIN),
        *(_image(name, busybox, shell, label=same_image[0]) for name in same_image),
        *(
            _image(f"{_STAGING}/{name}:latest", busybox, shell, user=user)
            for name, user in _USERS.items()
        ),
    ]


def _image(
    reference: str,
    layers: tuple[Blob, ...],
    command: tuple[str, ...],
    *,
    user: str = "",
    label: str = "",
) -> Image:
    labels = (("lab.image", label or reference),)
    return Image(reference=reference, layers=layers, command=command, user=user, labels=labels)


def _layer(out: Path, fill: Callable[[Path], None]) -> Blob:
    root = out / "root"
    root.mkdir()
    fill(root)
    number = len(list(out.glob("*.tar.layer")))
    blob = write_layer(root, out / f"{number}.tar.layer")
    remove_tree(root)
    return blob


def _busybox_root(root: Path, busybox: Path) -> None:
    for folder in ("bin", "etc", "tmp", "root", "proc", "sys", "dev", "var/run", "var/www", "home"):
        (root / folder).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    _program(root / "bin", busybox, 0o755)
    for applet in run([str(busybox), "--list"]).split():
        if applet != "busybox":
            os.link(root / "bin/busybox", root / "bin" / applet)
    _script(root / "bin/pgrep", _PGREP)
    _script(root / "bin/ipcs", _IPCS)
    (root / "etc/passwd").write_text(_PASSWD)
    (root / "etc/group").write_text(_GROUP)


def _program(root: Path, program: Path, mode: int) -> None:
    target = root / program.name
    shutil.copyfile(program, target)
    target.chmod(mode)


def _web_root(root: Path, *, port: int) -> None:
    page = root / _WEB_ROOT.lstrip("/") / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text("<title>Welcome to nginx!</title>\n")
    (root / "bin").mkdir()
    _script(root / "bin/nginx", _NGINX.format(port=port, root=_WEB_ROOT))


def _script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)
