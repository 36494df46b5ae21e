"""Clients of containerd: its CRI socket and its own services, over our checked-in stubs."""
