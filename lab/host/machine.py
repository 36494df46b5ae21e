"""What the lab needs of the machine it runs on: a few tools, and its Debian mirror.

The only change ever made to the machine is `apt-get install` of the packages named here.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from lab.errors import LabError
from lab.run import run

# Program (or file) that must exist -> Debian and Ubuntu package that brings it.
_TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "ip": "iproute2",
    "sysctl": "procps",
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
    "/etc/ssl/certs/ca-certificates.crt": "ca-certificates",
}
_ENVIRONMENT_PASSED_ON = re.compile(
    r"(?i:https?_proxy|no_proxy|all_proxy)|GOPROXY|GOSUMDB|GONOSUMDB|GONOPROXY|GOPRIVATE|GOINSECURE"
    r"|PIP_(?:INDEX_URL|EXTRA_INDEX_URL|TRUSTED_HOST|DEFAULT_TIMEOUT)"
)


def require_root() -> None:
    """Raise LabError unless we are root on Linux with what namespaces need."""
    if os.geteuid() != 0:
        raise LabError("the lab needs root: run it with sudo")


def install_missing_tools() -> list[str]:
    """Install the packages of tools that are missing; return their names."""
    missing = [
        package
        for tool, package in _TOOLS.items()
        if not (Path(tool).exists() if tool.startswith("/") else shutil.which(tool))
    ]
    if missing:
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing]
        try:
            run(install, env=env)
        except LabError:
            run(["apt-get", "update", "-q"], env=env)
            run(install, env=env)
    return missing


def build_environment() -> dict[str, str]:
    """Return the machine's settings for downloads: proxies, Go proxy and pip index."""
    return {
        key: value for key, value in os.environ.items() if _ENVIRONMENT_PASSED_ON.fullmatch(key)
    }


def debian_mirror() -> str | None:
    """Return the mirror that this machine gets Debian from, None on Ubuntu and the like."""
    paths = (Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*")))
    return find_mirror(
        [
            (path.suffix, path.read_text(errors="replace"))
            for path in paths
            if path.suffix in (".list", ".sources") and path.is_file()
        ]
    )


def find_mirror(files: list[tuple[str, str]]) -> str | None:
    """Find the archive of Debian proper in apt source files.

    Args: files: pairs of suffix (".list" or ".sources") and content.
    Returns: the first URI whose last path component is `debian`: that is what the archive is
        called on mirrors, and what tells it from security archives and other vendors.
    """
    for suffix, text in files:
        for uri in _one_line_uris(text) if suffix == ".list" else _deb822_uris(text):
            if re.fullmatch(r"(?:https?|file|copy)://?.*/debian/?", uri):
                return uri.rstrip("/")
    return None


def _one_line_uris(text: str) -> list[str]:
    return re.findall(r"^\s*deb\s+(?:\[[^\]]*\]\s+)?(\S+)", text, re.MULTILINE)


def _deb822_uris(text: str) -> list[str]:
    uris: list[str] = []
    for stanza in re.split(r"\n\s*\n", text):
        if re.search(r"^Enabled:\s*(?:no|false)\s*$", stanza, re.MULTILINE | re.IGNORECASE):
            continue
        for line in re.findall(r"^URIs:(.*(?:\n[ \t]+.*)*)", stanza, re.MULTILINE):
            uris += line.split()
    return uris


def apt_options() -> list[str]:
    """Return apt options that carry the machine's proxy settings, and allow an old mirror.

    A snapshot mirror's Release files count as expired; signatures are still checked.
    """
    dump = run(["apt-config", "dump"])
    wanted = re.findall(r'^(Acquire::https?::(?:Proxy|CaInfo)[^ ]*) "([^"]+)";', dump, re.MULTILINE)
    return [
        'Acquire::Check-Valid-Until "false"',
        *(f'{key} "{value}"' for key, value in wanted),
    ]
