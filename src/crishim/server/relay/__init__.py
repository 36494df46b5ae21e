"""Calls that pass to containerd byte for byte."""
