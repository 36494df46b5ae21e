"""Is our socket safe, and do kubelet and crictl come to it?"""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path

from crishim.doctor.finding import Finding, error, ok, warning
from crishim.kernel import files

_KUBELET_DEFAULT = "unix:///run/containerd/containerd.sock"
_KUBELET_FLAG = "--container-runtime-endpoint"


def own(socket: Path) -> Finding:
    """Look at the modes of our socket: who reaches it is root on the node."""
    try:
        found, parent = socket.lstat(), socket.parent.lstat()
    except OSError as problem:
        return error(
            "socket.own",
            f"there is no socket at {socket} ({problem.strerror})",
            cure="start crishim: systemctl start crishim",
        )
    if not stat.S_ISSOCK(found.st_mode):
        return error(
            "socket.own", f"{socket} is not a socket", cure=f"remove {socket}, restart crishim"
        )
    open_to_others = [
        f"{path} {stat.S_IMODE(status.st_mode):04o}"
        for path, status in ((socket, found), (socket.parent, parent))
        if status.st_mode & 0o077 or status.st_uid != os.geteuid()
    ]
    if open_to_others:
        return error(
            "socket.own",
            f"others than root reach crishim's socket: {', '.join(open_to_others)}",
            cure=f"chown root: and chmod 0700 {socket.parent}, chmod 0600 {socket}",
        )
    return ok("socket.own", f"{socket} is root's alone")


def crictl(config: Path, socket: Path) -> Finding:
    """Look whether crictl's configuration file names our socket."""
    try:
        named = _value(config.read_text(encoding="utf-8"), "runtime-endpoint")
    except FileNotFoundError:
        named = ""
    if not named:
        return ok("socket.crictl", f"{config} names no runtime; crictl wants --runtime-endpoint")
    if _path(named) == str(socket):
        return ok("socket.crictl", "crictl comes to crishim")
    return warning(
        "socket.crictl",
        f"crictl goes past crishim, to {named}",
        cure=f"runtime-endpoint: unix://{socket} in {config}",
    )


def kubelet(proc: Path, socket: Path) -> Finding:
    """Look whether a kubelet that runs here has us as its runtime.

    Args: proc: where procfs is mounted.
    """
    named = _kubelet_endpoint(proc)
    if named is None:
        return ok("socket.kubelet", "no kubelet runs here")
    if _path(named) == str(socket):
        return ok("socket.kubelet", "the kubelet comes to crishim")
    return warning(
        "socket.kubelet",
        f"the kubelet goes past crishim, to {named}: its pods can be checkpointed by their ids, "
        "but not restored",
        cure=f"containerRuntimeEndpoint: unix://{socket} in the kubelet's configuration",
    )


def _kubelet_endpoint(proc: Path) -> str | None:
    """Return the runtime endpoint of the kubelet that runs; None without one."""
    for process in files.entries(proc):
        try:
            words = (process / "cmdline").read_text(encoding="utf-8").split("\0")
        except (OSError, UnicodeDecodeError):
            continue
        if os.path.basename(words[0]) == "kubelet":
            flag = _flag(words, _KUBELET_FLAG)
            return flag or _configured(process, _flag(words, "--config")) or _KUBELET_DEFAULT
    return None


def _flag(words: list[str], name: str) -> str:
    for at, word in enumerate(words):
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
        if word == name:
            return words[at + 1]
    return ""


def _configured(process: Path, file: str) -> str:
    if not file.startswith("/"):
        return ""
    try:
        # The kubelet may have a root of its own.
        text = Path(f"{process}/root{file}").read_text(encoding="utf-8")
    except OSError:
        return ""
    return _value(text, "containerRuntimeEndpoint")


def _value(text: str, key: str) -> str:
    """Return a top-level text of a YAML or JSON file; "" if it has none of that name."""
    try:
        table = json.loads(text)
    except ValueError:
        match = re.search(rf"^{re.escape(key)}:[ \t]*(\S+)", text, re.MULTILINE)
        return match.group(1).strip("\"'") if match else ""
    return str(table.get(key, "")) if isinstance(table, dict) else ""


def _path(endpoint: str) -> str:
    return os.path.normpath(endpoint.removeprefix("unix://"))
