"""The service `crishim.v1`."""
