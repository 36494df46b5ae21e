"""Restore an archive into a created container; `restore.py` has the ordered steps."""
