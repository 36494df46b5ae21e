"""The checkpoints of a node: names, places, and the images that they need."""
