"""What a container is on this node: its parts, its log, its volumes, and a description of it."""
