#!/usr/bin/python3
"""Become the kubelet, after showing it the kernel settings that it insists on.

They are the machine's, shared by everything on it: on this node files with the wanted values are
mounted over them, and the kubelet finds nothing to change.
"""

import os
import pathlib
import subprocess
import sys

KUBELET = "/usr/local/bin/kubelet"
SHOWN = pathlib.Path("/run/lab/sysctl")
# Source: kubernetes 1.34, pkg/kubelet/cm/container_manager_linux.go, setupKernelTunables.
WANTED = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}


def main() -> None:
    """Mount what differs, once in a node's life; replace this process."""
    SHOWN.mkdir(parents=True, exist_ok=True)
    for name, value in WANTED.items():
        setting = pathlib.Path("/proc/sys", name)
        if setting.read_text().strip() != value:
            shown = SHOWN / name.replace("/", ".")
            shown.write_text(f"{value}\n")
            subprocess.run(["mount", "--bind", shown, setting], check=True)
    os.execv(KUBELET, [KUBELET, *sys.argv[1:]])


main()
