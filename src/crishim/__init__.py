"""Checkpoint, restore and live migration for Kubernetes nodes, in front of containerd."""

__version__ = "0.1.0"
