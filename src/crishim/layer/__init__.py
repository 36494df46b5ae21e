"""A container's writable layer: captured from its overlay, carried as tar members, applied."""
