"""The machine under the lab: its cgroups, its networks, calls to its kernel; knows no node."""
