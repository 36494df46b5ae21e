"""Bring a lab up: make what is missing in the cache, then network, nodes, services, images."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab.down import take_down
from lab.errors import LabError
from lab.host import machine
from lab.host.network import create_lab
from lab.host.remove import file_system_type
from lab.kube import controlplane
from lab.kube.cluster import join_nodes
from lab.kube.programs import control_plane_programs, kubelet_layer
from lab.node.enter import call_node, check_node
from lab.node.images import import_archive
from lab.node.nodes import find_node, start_node
from lab.node.wheel import python_layer, refresh_crishim, reload_crishim
from lab.parts.gotools import CONTAINERD, TOOLS, go_layer
from lab.parts.roots import base_root, builder_root, trixie_containerd
from lab.parts.standins import standin_images
from lab.run import say, step

if TYPE_CHECKING:
    from pathlib import Path

    from lab.settings import Options, Settings

_CRI_READY_TIMEOUT_S = 30.0
_CRI_VERSION = ["crictl", "-r", "unix:///run/containerd/containerd.sock", "version"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What nodes are made of, all in the cache. `layers` has the uppermost first."""

    layers: list[Path]
    images: Path


def prepare(settings: Settings, options: Options) -> Parts:
    """Make or find everything that is cached."""
    if missing := machine.install_missing_tools():
        say(f"installed {', '.join(missing)}")
    cache = settings.cache
    cache.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:
        # Unpacking a root or linking a program keeps one core busy: do several at once.
        base_job = pool.submit(base_root, cache)
        tools_job = pool.submit(go_layer, cache, "tools", TOOLS)
        containerd_job = pool.submit(_containerd_layers, cache, options.containerd)
        base = base_job.result()
        python_job = pool.submit(python_layer, cache, base, settings.checkout)
        tools, containerd = tools_job.result(), containerd_job.result()
        standins = standin_images(cache, base, tools)
        layers = [standins / "layer", python_job.result(), tools, *containerd, base]
        if options.kubernetes:
            layers.insert(0, kubelet_layer(cache))
            control_plane_programs(cache)
    return Parts(layers=layers, images=standins / "images.tar")


def _containerd_layers(cache: Path, version: str) -> list[Path]:
    if version == "2.4":
        return [go_layer(cache, "containerd-2.4", CONTAINERD)]
    return [trixie_containerd(cache)] if version == "1.7" else []


def bring_up(settings: Settings, options: Options) -> None:
    """Bring the lab up with these options.

    What a lab of this name left behind goes first. Nothing is recorded as up until all of it is.
    Raises: LabError: a step failed; `down` or the next `up` clears what there is.
    """
    if file_system_type(settings.state_base) == "overlay":
        raise LabError(f"{settings.state_base} is on an overlay: set CRISHIM_LAB_STATE to a disk")
    if _is_up(settings, options):
        refresh_crishim(settings)
        say(f"lab {settings.name!r} is up already: {options}")
        return
    parts = prepare(settings, options)
    with step("clear what was there"):
        take_down(settings)
    nodes = settings.node_names(options.nodes)
    settings.state.mkdir(parents=True)
    settings.checkout_file.write_text(str(settings.checkout))
    with step("start nodes"):
        create_lab(settings.netns, dual_stack=options.dual_stack)
        kubelets = _start_control_plane(settings, options) if options.kubernetes else {}
        for node in nodes:
            files = kubelets.get(node, {})
            start_node(settings, options, node=node, layers=parts.layers, more_files=files)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda node: _provision(settings, node, parts), nodes))
    reload_crishim(settings)
    if options.kubernetes:
        with step("kubernetes: nodes are ready"):
            join_nodes(settings, nodes)
    settings.options_file.write_text(options.to_json())
    say(f"lab {settings.name!r} is up: {options}")


def _start_control_plane(settings: Settings, options: Options) -> dict[str, dict[str, str]]:
    """Start Kubernetes' control plane; return for each node the files of its kubelet."""
    kubelets = controlplane.create(
        settings,
        settings.node_names(options.nodes),
        programs=control_plane_programs(settings.cache),
        builder=builder_root(settings.cache),
    )
    controlplane.start(settings, dual_stack=options.dual_stack)
    return kubelets


def _is_up(settings: Settings, options: Options) -> bool:
    """Tell whether this very lab is up: these options, this checkout, no node ended."""
    if settings.read_options() != options:
        return False
    try:
        for node in settings.node_names(options.nodes):
            find_node(settings, node)
    except LabError:
        return False
    return settings.checkout_file.read_text() == str(settings.checkout)


def _provision(settings: Settings, node: str, parts: Parts) -> None:
    with step(f"{node}: containerd"):
        _wait_for_supervisor(settings, node)
        check_node(settings, node, ["service", "registry", "start"])
        check_node(settings, node, ["service", "containerd", "start"])
        _wait_for_cri(settings, node)
    with step(f"{node}: images"):
        import_archive(settings, node, parts.images)


def _wait_for_supervisor(settings: Settings, node: str) -> None:
    _poll(settings, node, ["test", "-S", "/run/lab/control"])


def _wait_for_cri(settings: Settings, node: str) -> None:
    _poll(settings, node, _CRI_VERSION)


def _poll(settings: Settings, node: str, argv: list[str]) -> None:
    deadline = time.monotonic() + _CRI_READY_TIMEOUT_S
    while (done := call_node(settings, node, argv)).returncode != 0:
        if time.monotonic() > deadline:
            raise LabError(f"{node}: {' '.join(argv)} keeps failing: {done.stdout.strip()}")
        time.sleep(0.1)
