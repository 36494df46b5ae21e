"""The `crishim` command: argument parsing, progress, exit codes. A client of our own service."""
