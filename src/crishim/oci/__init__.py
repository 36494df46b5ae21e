"""Pure readings of an OCI runtime specification."""
