"""Dump a container into an archive; `dump.py` has the ordered steps."""
