"""The lab's one error class."""


class LabError(Exception):
    """Something the user should read; `scripts/lab` prints it and exits with 1."""
