"""Linux primitives: processes, mounts, cgroups, namespaces, netlink, packets, durable files.

Nothing here knows containers, archives or gRPC.
"""
