"""Examine a node for what checkpoint and restore need; `examine.py` puts the checks together.

Each module looks at one kind of thing and returns findings. Nothing here changes the node.
"""
