"""A virtual machine made of the same layers as the nodes."""
