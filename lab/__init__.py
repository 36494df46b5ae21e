"""Real nodes on one machine, for tests, benchmarks and the demo.

Each node has its own root, namespaces, cgroups, containerd and crishim; a network namespace of
the lab joins them. The package uses the standard library only and never imports `crishim`: it
knows crishim as a wheel, a service and a command on a node's PATH. README.md is the manual.
"""
