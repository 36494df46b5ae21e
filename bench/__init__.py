"""Benchmarks: ratios to runc, containerd and Podman of the same run.

Each program without a suffix is one benchmark's half on the machine, and what to start; `node` has
the halves that measure inside a node of the lab.
"""
