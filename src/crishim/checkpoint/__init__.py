"""The flows: dump a container into an archive, restore it, keep its address and connections."""
