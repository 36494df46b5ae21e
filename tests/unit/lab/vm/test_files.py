"""The files that make a node's root a virtual machine's."""

from __future__ import annotations

import re

from lab.settings import Options
from lab.vm.files import PORTS, link_units, machine_files


def test_every_word_of_the_units_is_filled_in():
    """The agent serves every port; no placeholder is left for systemd to stumble over."""
    files = machine_files("vm", Options())
    assert not [name for name, text in files.items() if re.search(r"@[A-Z]+@", text)]
    agent = files["/etc/systemd/system/lab-agent.service"]
    assert f"agent.py {' '.join(PORTS)}\n" in agent


def test_containerd_has_what_a_whole_machine_has():
    """systemd's cgroup driver and AppArmor, which nodes inside namespaces do without."""
    config = machine_files("vm", Options())["/etc/containerd/config.toml"]
    assert "SystemdCgroup = true" in config
    assert "disable_apparmor = false" in config


def test_the_lab_units_are_enabled_and_none_of_them_masked(tmp_path):
    """Each unit of the lab is wanted by a target that exists in its own words."""
    link_units(tmp_path)
    files = machine_files("vm", Options())
    units = [name.rpartition("/")[2] for name in files if name.endswith(".service")]
    for unit in units:
        (link,) = (path for path in tmp_path.rglob("*") if path.name == unit)
        target = link.parent.name.removesuffix(".wants")
        assert f"WantedBy={target}\n" in files[f"/etc/systemd/system/{unit}"]
