"""crishim on the nodes, installed as a user would: a wheel in a virtual environment.

The environment with crishim's dependencies is a cached layer; the wheel is built from the
checkout and installed inside each node by `install-crishim`.
"""

from __future__ import annotations

import json
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from lab.host.machine import build_environment
from lab.node.enter import call_node
from lab.node.nodes import known_nodes
from lab.parts.cache import cached, files_of, recipe_key
from lab.parts.jail import Jail, run_in_root
from lab.run import say, step

if TYPE_CHECKING:
    from lab.settings import Settings

VENV = "/opt/crishim"
BUILD_VENV = "/opt/crishim-build"


def python_layer(cache: Path, base: Path, checkout: Path) -> Path:
    """Return a layer with crishim's environment, and one with its build system."""
    project = tomllib.loads((checkout / "pyproject.toml").read_text())
    dependencies: list[str] = project["project"]["dependencies"]
    build_system: list[str] = project["build-system"]["requires"]
    recipe = recipe_key(json.dumps([dependencies, build_system]), base.name)

    def build(directory: Path) -> None:
        scratch = cache / ".python.scratch"
        for venv, requirements in ((VENV, dependencies), (BUILD_VENV, build_system)):
            for argv in (
                ["python3", "-m", "venv", venv],
                [f"{venv}/bin/pip", "install", "-q", "--no-cache-dir", *requirements],
            ):
                jail = Jail(
                    root=str(base),
                    argv=argv,
                    env={**build_environment(), "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
                    upper=str(directory),
                    scratch=str(scratch),
                )
                run_in_root(jail)

    return cached(cache, "python", recipe, build)


def source_key(checkout: Path) -> str:
    """Return a hash of what crishim is built from."""
    return recipe_key((checkout / "pyproject.toml").read_bytes(), *files_of(checkout / "src"))


def install_crishim(settings: Settings, node: str) -> bool:
    """Build and install the checkout's crishim on a node and start its service again.

    A checkout that does not build or start yet must not keep the node from others.
    Returns: whether crishim runs; a line says why not.
    """
    for argv in (["install-crishim"], ["service", "crishim", "restart"]):
        done = call_node(settings, node, argv)
        if done.returncode != 0:
            lines = done.stdout.strip().splitlines()[-3:]
            say(f"warning: {node}: crishim does not run: {' '.join(lines)}")
            return False
    return True


def reload_crishim(settings: Settings) -> bool:
    """Install the checkout's crishim on all nodes and restart it; return whether it runs."""
    nodes = known_nodes(settings)
    key = source_key(settings.checkout)
    with step(f"install crishim on {', '.join(nodes)}"), ThreadPoolExecutor() as pool:
        running = all(pool.map(lambda node: install_crishim(settings, node), nodes))
    settings.installed_file.write_text(key)
    return running


def refresh_crishim(settings: Settings) -> None:
    """Install the checkout's crishim if the nodes have another."""
    installed = settings.installed_file
    if not installed.exists() or installed.read_text() != source_key(settings.checkout):
        reload_crishim(settings)
