"""Linux primitives of networks: namespaces, netlink, packets, sockets."""
